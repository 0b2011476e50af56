"""A search through all stages of its space."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mlopt.data import ImageData
from mlopt.report import RunFolder

from ..settings import Settings
from .alarms import Watch
from .epochs import Epochs
from .log import Log
from .measures import validation
from .scheme import Scheme
from .search import Search


def run_stages(
    scheme: Scheme, search: Search, loaders: Sequence[Any], folder: RunFolder, data: ImageData,
    s: Settings,
) -> Search:  # fmt: skip
    """Run a search through all stages of its space.

    Args:
        scheme: that made it; it makes the later stages.
        search: the first stage.
        loaders: of `search_loaders`.
        folder: of the run.
        data: what is searched with.
        s: the settings.

    Returns:
        The last stage, as it ended.
    """
    while True:
        run_search(search, loaders, folder, data, s)
        spaces = search.following()
        if not spaces:
            return search
        spent = search.spent
        search = scheme(data, *loaders, s, spaces=spaces)
        search.spent = spent


def run_search(
    search: Search, loaders: Sequence[Any], folder: RunFolder, data: ImageData, s: Settings
) -> None:
    """Run the engine of one stage."""
    spent, (train, valid, *_) = search.spent, loaders
    passes = torch.zeros((), dtype=torch.int64)  # compiled code has a guard on a plain number

    def count(module: nn.Module, args: Any) -> None:
        passes.add_(1)

    def validate() -> dict[str, float]:
        search.validation = validation(search.learners, valid, s.device, search.engine.clock.means)
        return dict(search.validation)

    for network in (*(x.architecture for x in search.learners), *search.networks):
        network.to(s.device)
    hooks = [network.register_forward_pre_hook(count) for network in search.networks]
    at, of = search.stage
    stage = f", stage {at} of {of}" if of > 1 else ""
    began = time.perf_counter()
    log = Log(search, folder, data, lambda: int(passes))
    try:
        search.engine.run(
            epochs=search.before + search.epochs,
            epoch=train,
            validate=validate,
            callbacks=[
                Epochs(search, s.warmup),
                *search.callbacks,
                Watch(search, s.warmup, s.stop_on_collapse),
                log,
            ],
            log_every=10,
            phases={label: f"{name}{stage}" for label, name in search.phases.items()},
        )
    finally:
        for hook in hooks:
            hook.remove()
    spent.passes += int(passes)
    spent.between = log.between
    spent.seconds += time.perf_counter() - began
    spent.steps += search.engine.steps
    spent.epochs += search.engine.epoch

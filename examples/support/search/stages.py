"""A search through all stages of its space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlopt
from mlopt.data import ImageData
from mlopt.report import RunFolder

from ..settings import Settings
from .alarms import Watch
from .count import Count
from .epochs import Epochs
from .log import Log
from .measures import validation
from .scheme import Scheme
from .search import Search


def run_stages(
    scheme: Scheme, search: Search, loaders: Sequence[Any], folder: RunFolder, data: ImageData,
    s: Settings,
) -> Search:  # fmt: skip
    """Run a search through all stages of its space, or go on with one that was interrupted.

    Each stage goes on from its newest checkpoint. One that is over is passed through at once: its
    last checkpoint has all that the next one is made from, random numbers among it.

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
        search.end()
        search = scheme(data, *loaders, s, spaces=spaces)
        search.spent = spent


def run_search(
    search: Search, loaders: Sequence[Any], folder: RunFolder, data: ImageData, s: Settings
) -> None:
    """Run the engine of one stage, from its newest checkpoint on."""
    spent, (train, valid, *_) = search.spent, loaders
    checkpoints, count = folder.root / checkpoint_folder(search), Count(search)

    def validate() -> dict[str, float]:
        search.validation = validation(search.learners, valid, s.device, search.engine.clock.means)
        return dict(search.validation)

    for network in (*(x.architecture for x in search.learners), *search.networks):
        network.to(s.device)
    at, of = search.stage
    stage = f", stage {at} of {of}" if of > 1 else ""
    log = Log(search, folder, data, count)
    search.engine.run(
        epochs=search.before + search.epochs,
        epoch=train,
        validate=validate,
        callbacks=[
            count,
            Epochs(search, s.warmup),
            *search.callbacks,
            Watch(search, s.warmup, s.stop_on_collapse),
            log,
            mlopt.Checkpoint(checkpoints, every=s.checkpoint_every or None),
        ],
        log_every=10,
        resume=checkpoints,
        phases={label: f"{name}{stage}" for label, name in search.phases.items()},
    )
    spent.passes += int(count.passes)
    spent.seconds += count.seconds
    spent.between = log.between
    spent.steps += search.engine.steps
    spent.epochs += search.engine.epoch
    spent.logged = log.logged


def checkpoint_folder(search: Search) -> str:
    """The name of a stage's own in the run folder."""
    stage, stages = search.stage
    return f"checkpoints_stage_{stage}" if stages > 1 else "checkpoints"

"""The search of the NAS examples: a scheme on a search space, through all stages of the space."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import mlopt
from callbacks import Epochs, Log, Watch
from measuring import Learner, validation
from mlopt.data import ImageData
from mlopt.nas import SearchSpace
from mlopt.report import RunFolder
from support.networks import search_space
from support.settings import Settings


@dataclass
class Spent:
    """What a search took so far, over all of its stages.

    Attributes:
        steps: of the engines.
        epochs: of the engines.
        seconds: of the engines, validation included.
        passes: forward passes of the networks.
        notes: what a reader of the result must know.
    """

    steps: int = 0
    epochs: int = 0
    seconds: float = 0.0
    passes: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass
class Search:
    """A search ready to run: one stage of a search space.

    Attributes:
        engine: of the scheme.
        learners: those who learn an architecture; of several, each has a name.
        networks: those whose forward passes are counted, and who are told each epoch.
        epochs: in which the architecture is learned.
        before: epochs of the run before these.
        generator: whose samples are saved, if there is one.
        callbacks: further observers of the engine.
        spent: by this stage and those before it.
        validation: the metrics of the last validation.
    """

    engine: mlopt.Engine
    learners: Sequence[Learner]
    networks: Sequence[nn.Module]
    epochs: int
    before: int = 0
    generator: nn.Module | None = None
    callbacks: Sequence[mlopt.Callback] = ()
    spent: Spent = field(default_factory=Spent, init=False)
    validation: dict[str, float] = field(default_factory=dict, init=False)

    @property
    def stage(self) -> tuple[int, int]:
        """Which stage this is, from 1, and how many there are."""
        space = self.learners[0].space
        return space.stage + 1, len(space.stages)

    @property
    def best(self) -> int:
        """The place of the learner with the lowest loss at the last validation."""
        losses = [self.validation[x.key("validation/loss")] for x in self.learners]
        known = [math.inf if math.isnan(loss) else loss for loss in losses]
        return known.index(min(known))

    def following(self) -> list[SearchSpace]:
        """The spaces of the next stage, one for each learner; none after the last."""
        found = [x.space.following(x.architecture) for x in self.learners]
        return [space for space in found if space is not None]


@dataclass(frozen=True)
class Scheme:
    """A way to search, in any search space.

        search = scheme(data, *loaders, s)                    # the first stage
        search = scheme(data, *loaders, s, spaces=spaces)     # a later one

    Attributes:
        title: what results call it; "" for a plain search, which has the name of its space.
        make: (space, data, *loaders, settings) -> `Search`; a group gets a list of spaces.
        plain: whether its training batches carry the images without augmentation too.
        unlabeled: whether it needs unlabeled images.
        group: whether several learners search, each in a space of its own.
        base: the plain search, which results are compared with.
    """

    title: str
    make: Callable[..., Search]
    plain: bool = False
    unlabeled: bool = False
    group: bool = False
    base: Scheme | None = None

    def of(self, s: Settings) -> Scheme:
        """This scheme; or the plain search, for a group of one learner, whom nobody teaches."""
        return self.base if self.base and self.group and s.learners == 1 else self

    def __call__(
        self, data: ImageData, *rest: Any, spaces: Sequence[SearchSpace] | None = None
    ) -> Search:
        """Networks, new ones, and the graph; `rest` are the loaders and the settings."""
        s: Settings = rest[-1]
        found = spaces or [search_space(data.name, s)] * (s.learners if self.group else 1)
        return self.make(list(found) if self.group else found[0], data, *rest)


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
    began = time.perf_counter()
    try:
        search.engine.run(
            epochs=search.before + search.epochs,
            epoch=train,
            validate=validate,
            callbacks=[
                Epochs(search, s.warmup),
                *search.callbacks,
                Watch(search, s.warmup, s.stop_on_collapse),
                Log(search, folder, data),
            ],
            log_every=10,
        )
    finally:
        for hook in hooks:
            hook.remove()
    spent.passes += int(passes)
    spent.seconds += time.perf_counter() - began
    spent.steps += search.engine.steps
    spent.epochs += search.engine.epoch

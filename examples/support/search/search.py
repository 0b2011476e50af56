"""A search ready to run, and what it took so far."""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

import mlopt
from mlopt.nas import SearchSpace

from .learner import Learner


@dataclass
class Spent:
    """What a search took so far, over all of its stages.

    Attributes:
        steps: of the engines.
        epochs: of the engines.
        seconds: of the engines, validation included.
        passes: forward passes of the networks.
        between: seconds, and passes, of these that were spent between epochs.
        logged: bytes of the run's log.
        notes: what a reader of the result must know.
    """

    steps: int = 0
    epochs: int = 0
    seconds: float = 0.0
    passes: int = 0
    between: tuple[float, int] = (0.0, 0)
    logged: int = 0
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
        phases: what the progress bar calls the parts of the run, as of `Engine.run`.
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
    phases: Mapping[str, str] = field(default_factory=dict)
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

    def end(self) -> None:
        """Give back what only its steps have needed: its engine with the workers of its loaders."""
        del self.engine
        self.callbacks = ()
        gc.collect()  # an engine is part of a circle

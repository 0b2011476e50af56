"""One of those who learn an architecture."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mlopt.nas import Architecture, Genotype, SearchSpace


@dataclass(frozen=True)
class Learner:
    """One of those who learn in a search.

    Attributes:
        space: what it searches in, at this stage.
        architecture: what it learns.
        classifier: the network whose validation error is followed.
        training: name of a loss of the engine on training images alone, such as "stage1/loss".
        name: in files and metrics; "" if it learns alone.
    """

    space: SearchSpace
    architecture: Architecture
    classifier: nn.Module
    training: str
    name: str = ""

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.name.replace("_", " ")

    def key(self, metric: str) -> str:
        """The name of one of its metrics."""
        return f"{self.name}/{metric}" if self.name else metric

    def genotype(self) -> Genotype | None:
        """What it has found so far; None before the last stage of its space."""
        last = self.space.stage == len(self.space.stages) - 1
        return self.space.derive(self.architecture) if last else None

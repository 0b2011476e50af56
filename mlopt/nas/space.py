"""The search space: what a search may choose from, in the form that every scheme can use."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Literal

import torch

from mlopt._arguments import check_fields, checked, from_one
from mlopt._errors import SettingsError
from mlopt.nas.architecture import Architecture
from mlopt.nas.genotype import Genotype
from mlopt.nas.supernet import Supernet

__all__ = ["SearchSpace"]


@dataclass(frozen=True)
class SearchSpace(abc.ABC):
    """A cell-based search space at one stage of a search. It is a value and holds no weights.

        a, w = space.architecture(), space.supernet(classes, in_channels)
        ...                                  # search: logits = w(x, a())
        space = space.following(a)           # the next stage; None after the last
        genotype = space.derive(a)           # after the last stage

    Most spaces have one stage. Weights and architecture of a stage are new ones.

    Args:
        channels: channels of the supernet's first cells.
        layers: cells of the first stage's supernet.
        nodes: intermediate nodes of a cell.
        form: `cifar` keeps the size of small images in the stem; `imagenet` divides it by eight.

    Attributes:
        stages: cells of the supernet in each stage.
        stage: which of them this is, from 0.

    Raises:
        SettingsError: if a number is less than one, or there is no such form.
    """

    channels: int = 16
    layers: int = 8
    nodes: int = 4
    form: Literal["cifar", "imagenet"] = "cifar"

    def __post_init__(self) -> None:
        check_fields(self, SettingsError, channels=from_one, layers=from_one, nodes=from_one)

    @property
    def stages(self) -> tuple[int, ...]:
        """Cells of the supernet in each stage."""
        return (self.layers,)

    @property
    def stage(self) -> int:
        """Which of the stages this is, from 0."""
        return 0

    @abc.abstractmethod
    def architecture(self, generator: torch.Generator | None = None) -> Architecture:
        """Return new architecture parameters; `a()` gives what the supernet reads.

        Args:
            generator: source of the initial values; the global one by default.
        """

    @abc.abstractmethod
    def supernet(self, classes: int, in_channels: int = 3) -> Supernet:
        """Return a new network of all candidates, called as `w(x, a())`.

        Args:
            classes: number of logits.
            in_channels: channels of the images.
        """

    @abc.abstractmethod
    def derive(self, architecture: Architecture) -> Genotype:
        """Return what the search found.

        Args:
            architecture: of the last stage.

        Raises:
            SettingsError: if it is another stage's, or another space's.
        """

    @checked(SettingsError)
    def following(self, architecture: Architecture) -> SearchSpace | None:
        """Return the next stage, or None after the last.

        Args:
            architecture: of this stage, as the search left it.

        Raises:
            SettingsError: if it is no architecture.
        """
        del architecture
        return None

    def _check_architecture(self, architecture: Architecture, kind: type[Architecture]) -> None:
        """Refuse the architecture of another kind of space, or of cells of another size."""
        if type(architecture) is not kind or architecture.nodes != self.nodes:
            nodes = getattr(architecture, "nodes", "no")
            raise SettingsError(
                f"{type(self).__name__}: this space's architecture is one of class {kind.__name__} "
                f"with {self.nodes} nodes, got {type(architecture).__name__} with "
                f"{nodes}. Give what architecture() of this space returned."
            )

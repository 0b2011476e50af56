"""The search space of DARTS."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mlopt._arguments import checked
from mlopt._errors import SettingsError
from mlopt.nas.architecture import Architecture
from mlopt.nas.derive import derive
from mlopt.nas.genotype import Genotype
from mlopt.nas.space import SearchSpace
from mlopt.nas.supernet import Supernet

__all__ = ["DARTS"]


@dataclass(frozen=True)
class DARTS(SearchSpace):
    """Eight operations on every edge, two kinds of cell, one stage.

    Args:
        channels: channels of the supernet's first cells.
        layers: cells of the supernet.
        nodes: intermediate nodes of a cell.
        form: `cifar` keeps the size of small images in the stem; `imagenet` divides it by eight.

    Raises:
        SettingsError: if a number is less than one, or there is no such form.

    Reference: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019.
    """

    @checked(SettingsError)
    def architecture(self, generator: torch.Generator | None = None) -> Architecture:
        """Return new architecture parameters, (edges, 8) for each kind of cell."""
        return Architecture(self.nodes, generator=generator)

    def supernet(self, classes: int, in_channels: int = 3) -> Supernet:
        """Return a new network whose edges are mixtures of the eight operations."""
        return Supernet(
            self.channels, self.layers, classes, self.nodes, in_channels, form=self.form
        )

    def derive(self, architecture: Architecture) -> Genotype:
        """Return the two strongest edges of each node, with their strongest operations."""
        self._check_architecture(architecture, Architecture)
        return derive(architecture)

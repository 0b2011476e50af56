"""The search space of DARTS-: DARTS' with an auxiliary skip connection on every edge."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlopt._arguments import checked, from_one, from_zero
from mlopt._errors import SettingsError
from mlopt.nas.architecture import Architecture
from mlopt.nas.derive import derive
from mlopt.nas.edge_convolutions import ReducingSkips
from mlopt.nas.genotype import Genotype
from mlopt.nas.mixed_edges import MixedEdges, Mixture
from mlopt.nas.operations import PRIMITIVES
from mlopt.nas.space import SearchSpace
from mlopt.nas.supernet import Supernet, check_epoch

__all__ = ["DARTSMinus"]

_DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda passed: 1 - passed,
    "cosine": lambda passed: (1 + math.cos(math.pi * passed)) / 2,
    "slow-cosine": lambda passed: math.cos(math.pi * passed / 2),
    "none": lambda passed: 1.0,
}
"""beta as a function of the part of the epochs that has passed."""


@dataclass(frozen=True)
class DARTSMinus(SearchSpace):
    """DARTS' space, whose supernet adds a skip connection to every mixture, outside the softmax.

        edge(x) = beta * skip(x) + sum_o w_o o(x)

    The auxiliary skip takes over what the candidate does for the training of the weights, so that
    its weight tells its worth as a candidate. beta falls to zero during the search, the same on
    all edges; the genotype does not know of it. On edges of stride 2 the auxiliary skip is a
    factorized reduction with weights of its own.

    Args:
        channels: channels of the supernet's first cells.
        layers: cells of the supernet.
        nodes: intermediate nodes of a cell.
        form: `cifar` keeps the size of small images in the stem; `imagenet` divides it by eight.
        auxiliary: `skip` is the identity where the stride is 1; `conv` a 1x1 convolution that
            begins as the identity.
        decay: how beta falls from 1 over the epochs: `linear`, `cosine`, `slow-cosine` (a quarter
            of a period), or `none`.

    Raises:
        SettingsError: if a number is less than one, or there is no such form, auxiliary skip or
            decay.

    Reference: Chu, Wang, Zhang, Lu, Wei, Yan, "DARTS-: Robustly Stepping out of Performance
        Collapse without Indicators", ICLR 2021.
    """

    auxiliary: Literal["skip", "conv"] = "skip"
    decay: Literal["linear", "cosine", "slow-cosine", "none"] = "linear"

    @checked(SettingsError)
    def architecture(self, generator: torch.Generator | None = None) -> Architecture:
        """Return new architecture parameters, (edges, 8) for each kind of cell."""
        return Architecture(self.nodes, generator=generator)

    def supernet(self, classes: int, in_channels: int = 3) -> Supernet:
        """Return a new network; `begin_epoch` sets its beta, the buffer `scheduled`."""
        return Supernet(
            self.channels,
            self.layers,
            classes,
            self.nodes,
            in_channels,
            form=self.form,
            edges=functools.partial(_AuxiliaryEdges, conv=self.auxiliary == "conv"),
            schedule=self.beta,
        )

    @checked(SettingsError, epoch=from_zero, epochs=from_one, warmup=from_zero)
    def beta(self, epoch: int, epochs: int, warmup: int = 0) -> float:
        """Return the factor of the auxiliary skips in an epoch, counted from 0.

        Args:
            epoch: which epoch.
            epochs: how many there are.
            warmup: does not matter here.

        Returns:
            From 1 in the first epoch towards 0.

        Raises:
            SettingsError: there is no such epoch.
        """
        del warmup
        check_epoch("DARTSMinus.beta", epoch, epochs)
        return _DECAYS[self.decay](epoch / epochs)

    def derive(self, architecture: Architecture) -> Genotype:
        """Return the two strongest edges of each node, with their strongest operations."""
        self._check_architecture(architecture, Architecture)
        return derive(architecture)


class _AuxiliaryEdges(MixedEdges):
    """Mixed edges with a skip connection beside the mixture, scaled by `Mixture.scheduled`."""

    def __init__(
        self,
        channels: int,
        sources: int,
        targets: int,
        stride: int,
        operations: Sequence[Sequence[str]] | None = None,
        *,
        conv: bool,
    ) -> None:
        super().__init__(channels, sources, targets, stride, operations)
        self.auxiliary: ReducingSkips | _AuxiliaryConvolutions | None = None
        if stride == 2:
            self.auxiliary = ReducingSkips(channels, sources, sources * targets)
        elif conv:
            self.auxiliary = _AuxiliaryConvolutions(channels, sources, targets)
        self.is_skip: Tensor
        is_skip = torch.tensor([float(name == "skip_connect") for name in PRIMITIVES])
        self.register_buffer("is_skip", is_skip, persistent=False)

    def forward(self, x: Tensor, mixture: Mixture) -> list[Tensor]:
        """Return the sums of the mixed edges and of the auxiliary skips."""
        beta = cast(Tensor, mixture.scheduled)
        if self.auxiliary is None:  # an identity more: it has the same place in the linear part
            return super().forward(x, mixture.reweighted(mixture.weights + beta * self.is_skip))
        nodes = super().forward(x, mixture)
        if isinstance(self.auxiliary, ReducingSkips):
            # A real copy: torch's batch_norm reads past an expanded scale in its backward pass.
            scale = beta.repeat(self.sources * self.targets * self.channels)
            skips = self.auxiliary(F.relu(x), scale)
            skips = skips.unflatten(1, (self.sources, self.targets, self.channels)).sum(1)
        else:
            skips = beta * self.auxiliary(x)
        return [node + skip for node, skip in zip(nodes, skips.unbind(1), strict=True)]


class _AuxiliaryConvolutions(nn.Module):
    """One 1x1 convolution for each edge, at first the identity, summed over the sources.

    (B, sources * C, H, W) -> (B, targets, C, H, W).
    """

    def __init__(self, channels: int, sources: int, targets: int) -> None:
        super().__init__()
        self.shape = (sources, targets, channels, channels)
        identity = torch.eye(channels).view(channels, channels, 1, 1)
        self.weights = nn.ParameterList(
            [nn.Parameter(identity.clone()) for _ in range(sources * targets)]
        )

    def forward(self, x: Tensor) -> Tensor:
        sources, targets, channels, _ = self.shape
        weights = torch.stack(cast("list[Tensor]", list(self.weights))).view(self.shape)
        joined = weights.permute(1, 2, 0, 3).reshape(targets * channels, sources * channels, 1, 1)
        return F.conv2d(x, joined).unflatten(1, (targets, channels))

"""The search space of PC-DARTS: DARTS' with partial channels and weighted edges."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlopt._arguments import check_fields, checked, from_one
from mlopt._errors import SettingsError
from mlopt.nas.architecture import Architecture, ArchitectureWeights
from mlopt.nas.derive import derive
from mlopt.nas.genotype import Genotype
from mlopt.nas.mixed_edges import MixedEdges, Mixture
from mlopt.nas.space import SearchSpace
from mlopt.nas.supernet import Supernet

__all__ = ["PCDARTS", "EdgeArchitecture"]


@dataclass(frozen=True)
class PCDARTS(SearchSpace):
    """DARTS' space, whose supernet mixes a part of the channels and weights the edges.

        edge(x) = shuffle( sum_o w_o o(first C / K channels of x), the other channels of x )
        node_j  = sum_{i<j} v[(i, j)] * edge_(i, j)(node_i),    sum_i v[(i, j)] = 1

    The channels that pass by are halved in size by max pooling where the stride is 2. The shuffle
    brings channel i * C / K + j to j * K + i, so that other channels are mixed in the next node.
    It takes about 1 / K of the memory of DARTS, for larger batches.

    Args:
        channels: channels of the supernet's first cells, a multiple of `partial`.
        layers: cells of the supernet.
        nodes: intermediate nodes of a cell.
        form: `cifar` keeps the size of small images in the stem; `imagenet` divides it by eight.
        partial: K; one channel of so many is mixed. By default 4, and 2 for the form `imagenet`.

    Raises:
        SettingsError: if a number is less than one, `channels` is no multiple of `partial`, or
            there is no such form.

    Reference: Xu, Xie, Zhang, Chen, Qi, Tian, Xiong, "PC-DARTS: Partial Channel Connections for
        Memory-Efficient Architecture Search", ICLR 2020.
    """

    partial: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, SettingsError, partial=from_one)
        if self.channels % self.parts:
            raise SettingsError(
                f"PCDARTS: partial must divide channels={self.channels}, got {self.parts}."
            )

    @property
    def parts(self) -> int:
        """K: one channel of so many is mixed."""
        if self.partial is not None:
            return self.partial
        return 2 if self.form == "imagenet" else 4

    @checked(SettingsError)
    def architecture(self, generator: torch.Generator | None = None) -> Architecture:
        """Return new parameters: (edges, 8), then (edges,), for each kind of cell."""
        return EdgeArchitecture(self.nodes, generator=generator)

    def supernet(self, classes: int, in_channels: int = 3) -> Supernet:
        """Return a new network whose edges mix one channel of `parts`."""
        return Supernet(
            self.channels,
            self.layers,
            classes,
            self.nodes,
            in_channels,
            form=self.form,
            edges=functools.partial(_PartialEdges, parts=self.parts),
        )

    def derive(self, architecture: Architecture) -> Genotype:
        """Return the two strongest edges of each node, with their strongest operations.

        The weight of an edge multiplies those of its operations.
        """
        self._check_architecture(architecture, EdgeArchitecture)
        return derive(architecture)


class EdgeArchitecture(Architecture):
    """Architecture parameters with weights of edges, normalised over the edges into each node.

    v[(i, j)] = exp(beta[(i, j)]) / sum_k exp(beta[(k, j)])
    """

    def __init__(self, nodes: int, generator: torch.Generator | None = None) -> None:
        super().__init__(nodes, generator=generator)
        edges = len(self.normal)
        self.normal_edges = nn.Parameter(1e-3 * torch.randn(edges, generator=generator))
        self.reduce_edges = nn.Parameter(1e-3 * torch.randn(edges, generator=generator))

    def forward(self) -> ArchitectureWeights:
        """Return mixture and edge weights, differentiable in the parameters."""
        incoming = [node + 2 for node in range(self.nodes)]

        def normalised(beta: Tensor) -> Tensor:
            return torch.cat([into_node.softmax(dim=0) for into_node in beta.split(incoming)])

        mixtures = super().forward()
        return ArchitectureWeights(
            mixtures.normal,
            mixtures.reduce,
            normal_edges=normalised(self.normal_edges),
            reduce_edges=normalised(self.reduce_edges),
        )


class _PartialEdges(MixedEdges):
    """Mixed edges of the first channels of each state; the others pass by."""

    def __init__(
        self,
        channels: int,
        sources: int,
        targets: int,
        stride: int,
        operations: Sequence[Sequence[str]] | None = None,
        *,
        parts: int,
    ) -> None:
        super().__init__(channels // parts, sources, targets, stride, operations)
        self.parts = parts

    def forward(self, x: Tensor, mixture: Mixture) -> list[Tensor]:
        """Return the weighted sums of the edges: mixed and passing channels, shuffled.

        Shuffling and adding commute, and so do taking the sum over the edges and passing by.
        """
        x = x.unflatten(1, (self.sources, -1))
        mixed, passing = x.split([self.channels, x.shape[2] - self.channels], dim=2)
        nodes = super().forward(mixed.flatten(1, 2), mixture)
        if self.parts == 1:
            return nodes
        passing = passing.flatten(1, 2)
        if self.stride == 2:
            passing = F.max_pool2d(passing, 2, 2, ceil_mode=True)  # as wide as the mixed part
        edges = mixture.edges
        if edges is None:
            edges = mixture.weights.new_ones(self.sources * self.targets)
        # (B, targets, K - 1, C / K, H, W): the shuffle is a stack behind the channels
        matrix = edges.view(self.sources, self.targets).t().expand(len(x), -1, -1)
        sums = torch.bmm(matrix, passing.reshape(len(x), self.sources, -1))
        sums = sums.unflatten(2, (self.parts - 1, self.channels, *passing.shape[2:]))
        return [
            torch.cat([node.unsqueeze(2), total.transpose(1, 2)], dim=2).flatten(1, 2)
            for node, total in zip(nodes, sums.unbind(1), strict=True)
        ]

"""All mixed edges of a cell that leave the same states, evaluated together.

The DARTS definition evaluates, on every edge, every operation: node = sum_edges sum_o w[edge, o] *
o(source). Much of that is the same for all edges which leave one state, and this file computes it
once per state: the ReLU in front of the convolutions, both poolings and their normalisations. What
differs between edges is only weights, so that one convolution of concatenated weights serves all
of them. The mixture weights of convolutions enter as the scale of their last batch normalisation,
which costs nothing; those of poolings and identities as one small matrix product.

The result is the definition's, up to rounding; so are the parameters, which stay one tensor per
edge and convolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlopt.nas.edge_convolutions import (
    Normalisation,
    ReducingSkips,
    SeparableConvolutions,
    SeparableHalves,
)
from mlopt.nas.operations import PRIMITIVES

__all__ = ["MixedEdges", "Mixture"]

_CONVOLUTIONS = ("dil_conv_3x3", "dil_conv_5x5", "sep_conv_3x3", "sep_conv_5x5", "skip_connect")
"""Operations whose last step is a batch normalisation of their own; the skip only if it reduces."""


class Mixture(NamedTuple):
    """What decides the sums of one group of edges, which are listed source by source.

    Attributes:
        weights: (edges, 8), the mixture weights, times the weights of the edges.
        edges: (edges,), the weights of the edges; None if they have none.
        scheduled: the scalar that `Supernet.begin_epoch` sets; None if the space has none.
    """

    weights: Tensor
    edges: Tensor | None = None
    scheduled: Tensor | None = None

    def reweighted(self, weights: Tensor) -> Mixture:
        """The same with other mixture weights; torch 2.6 does not compile `_replace`."""
        return Mixture(weights, self.edges, self.scheduled)


class MixedEdges(nn.Module):
    """Every edge from each of `sources` states to each of `targets` nodes, summed over the sources.

        output_t = sum_s sum_o w[(s, t), o] * o(source_s)

    Edges are listed source by source. Normalisations have no learned scale or shift, and each
    pooling is followed by one; 'none' adds zero.

    Args:
        channels: C, of every state.
        sources: states that the edges leave.
        targets: nodes that they reach.
        stride: 1, or 2 for edges that leave the inputs of a reduction cell.
        operations: names of the operations that each edge has; all eight by default. Edges of
            several sources must have the same ones.

    Reference: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019.
    """

    def __init__(
        self,
        channels: int,
        sources: int,
        targets: int,
        stride: int,
        operations: Sequence[Sequence[str]] | None = None,
    ) -> None:
        super().__init__()
        edges = sources * targets
        self.channels = channels
        self.sources = sources
        self.targets = targets
        self.stride = stride
        names = operations or [PRIMITIVES] * edges
        self.edges_with = {
            name: tuple(edge for edge in range(edges) if name in names[edge]) for name in PRIMITIVES
        }
        self.max_norm = self._normalisation("max_pool_3x3")
        self.avg_norm = self._normalisation("avg_pool_3x3")
        self.skips: ReducingSkips | None = None
        if stride == 2 and (skips := len(self.edges_with["skip_connect"])):
            self.skips = ReducingSkips(channels, sources, skips)
        self.sep3 = self._separable("sep_conv_3x3", 3)
        self.sep5 = self._separable("sep_conv_5x5", 5)
        self.dil3 = self._dilated("dil_conv_3x3", 3)
        self.dil5 = self._dilated("dil_conv_5x5", 5)
        self._scale_counts = [len(self.edges_with[name]) for name, _ in self._convolutions()]
        self.scale_index: Tensor
        positions = [
            edge * len(PRIMITIVES) + PRIMITIVES.index(name)
            for name, _ in self._convolutions()
            for edge in self.edges_with[name]
        ]
        index = torch.tensor(positions, dtype=torch.long)
        self.register_buffer("scale_index", index, persistent=False)

    def _normalisation(self, name: str) -> Normalisation | None:
        return Normalisation(self.sources * self.channels) if self.edges_with[name] else None

    def _separable(self, name: str, kernel: int) -> SeparableConvolutions | None:
        edges = len(self.edges_with[name])
        if not edges:
            return None
        return SeparableConvolutions(self.channels, self.sources, edges, kernel, stride=self.stride)

    def _dilated(self, name: str, kernel: int) -> SeparableHalves | None:
        edges, stride = len(self.edges_with[name]), self.stride
        if not edges:
            return None
        return SeparableHalves(
            self.channels, self.sources, edges, kernel, stride=stride, dilation=2
        )

    def _convolutions(self) -> Iterator[tuple[str, nn.Module]]:
        """The operations that end in a normalisation of their own, in the order of `_scales`."""
        modules = (self.dil3, self.dil5, self.sep3, self.sep5, self.skips)
        for name, module in zip(_CONVOLUTIONS, modules, strict=True):
            if module is not None:
                yield name, module

    def forward(self, x: Tensor, mixture: Mixture) -> list[Tensor]:
        """Return the sums of the mixed edges.

        Args:
            x: the states side by side, (B, sources * C, H, W).
            mixture: see there.

        Returns:
            For each target a tensor (B, C, ceil(H / stride), ceil(W / stride)).
        """
        nodes = list(self._linear(x, mixture.weights).unbind(1))
        rectified = F.relu(x)
        # Operations that the same edges have are added together first: fewer, larger additions.
        totals: dict[tuple[int, ...], Tensor] = {}
        scales = self._scales(mixture.weights)
        for (name, operation), scale in zip(self._convolutions(), scales, strict=True):
            y = operation(rectified, scale)
            edges = self.edges_with[name]
            totals[edges] = totals[edges] + y if edges in totals else y
        for edges, total in totals.items():
            parts = total.unflatten(1, (len(edges), self.channels)).unbind(1)
            for edge, part in zip(edges, parts, strict=True):
                nodes[edge % self.targets] = nodes[edge % self.targets] + part
        return nodes

    def _scales(self, weights: Tensor) -> Sequence[Tensor]:
        """Of each convolution the weights of its edges, once for each channel."""
        chosen = weights.flatten().index_select(0, self.scale_index)
        repeated = chosen.unsqueeze(1).expand(-1, self.channels).flatten()
        return repeated.split([count * self.channels for count in self._scale_counts])

    def _linear(self, x: Tensor, weights: Tensor) -> Tensor:
        """Poolings, and identities where the stride is 1: (B, targets, C, H, W)."""
        branches: list[tuple[str, Tensor]] = []
        if self.max_norm is not None:
            pooled = F.max_pool2d(x, 3, self.stride, 1)
            branches.append(("max_pool_3x3", self.max_norm(pooled)))
        if self.avg_norm is not None:
            pooled = F.avg_pool2d(x, 3, self.stride, 1, count_include_pad=False)
            branches.append(("avg_pool_3x3", self.avg_norm(pooled)))
        if self.stride == 1 and self.edges_with["skip_connect"]:
            branches.append(("skip_connect", x))
        height, width = (math.ceil(size / self.stride) for size in x.shape[2:])
        if not branches:
            return x.new_zeros(len(x), self.targets, self.channels, height, width)
        columns = torch.stack([weights[:, PRIMITIVES.index(name)] for name, _ in branches])
        # (operations, sources * targets) -> (targets, operations * sources)
        matrix = columns.unflatten(1, (self.sources, -1)).permute(2, 0, 1).flatten(1)
        stacked = torch.cat([y for _, y in branches], dim=1)
        stacked = stacked.reshape(len(x), matrix.shape[1], -1)
        mixed = torch.bmm(matrix.expand(len(x), -1, -1), stacked)
        return mixed.unflatten(2, (self.channels, height, width))

"""A cell of a supernet: nodes, and the groups of mixed edges between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from mlopt.nas.architecture import count_edges
from mlopt.nas.mixed_edges import MixedEdges, Mixture
from mlopt.nas.operations import FactorizedReduce, ReLUConvBN

__all__ = ["MakeEdges", "MixedCell", "edges_by_source", "groups_of_edges"]


class MakeEdges(Protocol):
    """What makes the edges of a group, for example the class `MixedEdges`."""

    def __call__(
        self,
        channels: int,
        sources: int,
        targets: int,
        stride: int,
        operations: Sequence[Sequence[str]],
        /,
    ) -> MixedEdges:
        """Return a module; the arguments are those of `MixedEdges`."""
        ...


class MixedCell(nn.Module):
    """Nodes fed by the two inputs and all earlier nodes; the output is all nodes side by side.

    Edges are grouped by the moment their source is known: first those that leave the two inputs,
    then those that leave each node. The last node feeds none. Where the edges of the inputs have
    different operations, each input has a group of its own.
    """

    def __init__(
        self,
        nodes: int,
        in_channels: tuple[int, int],
        channels: int,
        *,
        reduction: bool,
        after_reduction: bool,
        operations: Sequence[Sequence[str]],
        edges: MakeEdges,
    ) -> None:
        super().__init__()
        preprocess = FactorizedReduce if after_reduction else ReLUConvBN
        self.reduction = reduction
        self.preprocess0 = preprocess(in_channels[0], channels, affine=False)
        self.preprocess1 = ReLUConvBN(in_channels[1], channels, affine=False)
        by_source = [operations[edge] for edge in edges_by_source(nodes)]
        groups: list[MixedEdges] = []
        first = 0
        for sources, targets in groups_of_edges(nodes, operations):
            stride = 2 if reduction and targets == nodes else 1  # all nodes: only from an input
            last = first + sources * targets
            groups.append(edges(channels, sources, targets, stride, by_source[first:last]))
            first = last
        self.groups = nn.ModuleList(groups)

    def forward(self, input0: Tensor, input1: Tensor, mixtures: list[Mixture]) -> Tensor:
        """Map two rectified cell inputs to (B, nodes * channels, H, W)."""
        unread = [self.preprocess0.normalised(input0), self.preprocess1.normalised(input1)]
        outputs: list[Tensor] = []
        pending: list[Tensor] = []  # sums so far of the nodes still to come
        groups = cast("Iterable[MixedEdges]", self.groups)
        for edges, mixture in zip(groups, mixtures, strict=True):
            source = unread[0] if edges.sources == 1 else torch.cat(unread, dim=1)
            unread = unread[edges.sources :]
            mixed = edges(source, mixture)
            pending = [a + b for a, b in zip(pending, mixed, strict=True)] if pending else mixed
            if not unread:  # all edges of the next node are added
                node, *pending = pending
                outputs.append(node)
                unread = [node]
        return torch.cat(outputs, dim=1)


def edges_by_source(nodes: int) -> list[int]:
    """Return the indices of all edges, ordered by source instead of by node."""
    return [
        count_edges(node) + source
        for source in range(nodes + 1)
        for node in range(max(0, source - 1), nodes)
    ]


def groups_of_edges(nodes: int, operations: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """Return how many sources and targets each group of edges of a `MixedCell` has."""
    of_inputs = [operations[edge] for edge in edges_by_source(nodes)[: 2 * nodes]]
    inputs = [(2, nodes)] if len({tuple(x) for x in of_inputs}) == 1 else [(1, nodes), (1, nodes)]
    return inputs + [(1, targets) for targets in range(nodes - 1, 0, -1)]

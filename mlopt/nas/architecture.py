"""The architecture: what a search optimises, one mixture of operations for each edge of a cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mlopt._arguments import checked, from_one
from mlopt._errors import SettingsError
from mlopt.nas.operations import PRIMITIVES

__all__ = ["Architecture", "ArchitectureWeights", "CellOperations", "count_edges"]


class ArchitectureWeights(NamedTuple):
    """What a supernet reads, for each kind of cell.

        node_j = sum_{i<j} edges[(i, j)] * sum_o weights[(i, j), o] * o(node_i)

    Attributes:
        normal: mixture weights (edges, operations) of the normal cells; every row sums to one.
        reduce: the same of the reduction cells.
        normal_edges: weights (edges,) of the normal cells' edges; None stands for ones.
        reduce_edges: the same of the reduction cells.
    """

    normal: Tensor
    reduce: Tensor
    normal_edges: Tensor | None = None
    reduce_edges: Tensor | None = None


class CellOperations(NamedTuple):
    """Names of the operations that each edge has, edge by edge, for each kind of cell."""

    normal: tuple[tuple[str, ...], ...]
    reduce: tuple[tuple[str, ...], ...]

    @classmethod
    def full(cls, nodes: int) -> CellOperations:
        """Return all eight operations of DARTS on every edge of cells with so many nodes."""
        return cls(*[(PRIMITIVES,) * count_edges(nodes)] * 2)


def count_edges(nodes: int) -> int:
    """Return the number of edges of a cell whose node i (from 0) is fed by i + 2 states."""
    return nodes * (nodes + 3) // 2


class Architecture(nn.Module):
    """Architecture parameters of a cell-based search space; `a()` returns the mixture weights.

        weights[e, o] = exp(alpha[e, o]) / sum_k exp(alpha[e, k])

    Normal cells share one table and reduction cells the other. Edges are listed node by node,
    sources ascending: node 2 is fed by edges 0 and 1 (from the cell's inputs, states 0 and 1),
    node 3 by edges 2 to 4, and so on. Both tables begin as 1e-3 * N(0, 1).

    Args:
        nodes: intermediate nodes of a cell.
        operations: names of an edge's candidates, one for each column.
        generator: source of the initial values; the global one by default.

    Attributes:
        normal: parameter (edges, operations) of the normal cells.
        reduce: parameter (edges, operations) of the reduction cells.

    Raises:
        SettingsError: if there is no node, no operation, or an operation is named twice.

    Reference: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019.
    """

    @checked(SettingsError, nodes=from_one)
    def __init__(
        self,
        nodes: int = 4,
        operations: Sequence[str] = PRIMITIVES,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not operations or len(set(operations)) != len(operations):
            raise SettingsError(
                f"Architecture: operations must be distinct, got {list(operations)}."
            )
        self.nodes = nodes
        self.operations = tuple(operations)
        shape = (count_edges(nodes), len(operations))
        self.normal = nn.Parameter(1e-3 * torch.randn(shape, generator=generator))
        self.reduce = nn.Parameter(1e-3 * torch.randn(shape, generator=generator))

    def forward(self) -> ArchitectureWeights:
        """Return the mixture weights, differentiable in the parameters."""
        return ArchitectureWeights(self.normal.softmax(dim=-1), self.reduce.softmax(dim=-1))

    @torch.no_grad()
    def entropy(self) -> dict[str, float]:
        """Return the mean entropy of an edge's mixture, in nats, for each kind of cell.

        H = - mean_e sum_o weights[e, o] log weights[e, o],     0 (decided) <= H <= log(operations)
        """

        def mean_entropy(alpha: Tensor) -> float:
            logarithms = alpha.log_softmax(dim=-1)
            return -(logarithms.exp() * logarithms).sum(dim=-1).mean().item()

        return {"normal": mean_entropy(self.normal), "reduce": mean_entropy(self.reduce)}

    def extra_repr(self) -> str:
        """Describe the tables in `print`."""
        return f"nodes={self.nodes}, edges={len(self.normal)}, operations={len(self.operations)}"

"""`Whole`: what a node reads whose batch is taken whole, collected from all ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._containers.containers import rebuilt
from .._containers.rows import count_rows, join_rows
from .._errors import DataError
from .._graph.moving import move
from .._graph.node import Node
from .._graph.signal import Signal, join, split
from ..distributed.slices import EmptySlice
from ..distributed.sums import Sums
from ..distributed.traffic import purpose
from .point import Point

__all__ = ["Whole"]


class Whole:
    """Collects batches, and the rows of signals, for nodes that take them whole.

    Args:
        sums: over the ranks.
        lined: the signals that have a row for each sample.
        device: where batches are.
    """

    def __init__(self, sums: Sums, lined: frozenset[Signal], device: torch.device) -> None:
        self._sums, self._lined, self._device = sums, lined, device
        self._known: dict[int, tuple[Any, Any]] = {}

    def __call__(self, node: Node, point: Point, rows: Mapping[Any, tuple[int, ...]]) -> Point:
        """The point with all samples: the same on all ranks.

        Args:
            node: that takes its batch whole.
            point: where, with the samples of this rank.
            rows: of signals, on each rank.

        Returns:
            The point.
        """
        reads = self._lined.intersection(point.signals)
        if not (node.streams or reads):
            return point
        batch = point.batch
        if node.data_is_tuple and node.streams:
            batch = tuple(self._batch(node, b) for b in batch)
        elif node.streams:
            batch = self._batch(node, batch)
        signals = dict(point.signals)
        for source in reads:
            parts = split(signals[source], source.name)
            whole = {k: _Rows.apply(t, self._sums, rows[source]) for k, t in parts.items()}
            signals[source] = join(signals[source], whole)
        return Point(point.values, signals, batch, point.seed)

    def forget(self) -> None:
        """Let the batches of a step go."""
        self._known.clear()

    def _batch(self, node: Node, batch: Any) -> Any:
        """A batch with the samples of all ranks; those of a loader whose batches are cut."""
        if id(batch) not in self._known:
            self._known[id(batch)] = batch, self._collected(node, batch)
        return self._known[id(batch)][1]

    def _collected(self, node: Node, batch: Any) -> Any:
        def refuse(problem: str) -> Exception:
            return DataError(
                f"{node.name}: its batch {problem}, so that it cannot be told how the samples of "
                "all ranks come together, which split=False asks for."
            )

        here = None
        if not isinstance(batch, EmptySlice):
            here = rebuilt(batch, _on_host), count_rows(batch, 0, refuse)
        each = [found for found in self._sums.ranks.collect(here) if found is not None]
        if not each:
            raise DataError(f"{node.name}: no rank has samples of this batch.")
        return move(join_rows([b for b, _ in each], [n for _, n in each]), self._device)


def _on_host(held: Any) -> Any:
    return held.cpu() if isinstance(held, Tensor) else held


class _Rows(torch.autograd.Function):
    """The rows of all ranks. Its adjoint takes this rank's own of what is the same on all."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, sums: Sums, sizes: Sequence[int]) -> Any:
        ctx.sums, ctx.sizes = sums, sizes
        with purpose("signals"):
            return sums.lined_up(tensor, sizes)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        return _OwnRows.apply(cotangent, ctx.sums, ctx.sizes), None, None


class _OwnRows(torch.autograd.Function):
    """This rank's rows of a tensor that is the same on all ranks."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, sums: Sums, sizes: Sequence[int]) -> Any:
        ctx.sums, ctx.sizes = sums, sizes
        rank = sums.ranks.rank
        return tensor.narrow(0, sum(sizes[:rank]), sizes[rank]).clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        return _Rows.apply(cotangent, ctx.sums, ctx.sizes), None, None

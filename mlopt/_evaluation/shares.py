"""`Shares`: how much of a batch each rank has, and how much that counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import DataError
from .._graph.node import Node
from ..distributed.slices import EmptySlice
from ..distributed.sums import Sums
from ..distributed.traffic import purpose
from .in_parts import InParts
from .point import Point

__all__ = ["Share", "Shares"]


@dataclass(frozen=True)
class Share:
    """What a rank has of a node's batch.

    Attributes:
        weight: of it in a mean over all ranks.
        parts: that it falls into here; none where this rank has no samples.
        first: how many parts there are on the ranks before.
        rows: samples of each rank; None where a function of the user's has made its parts, and it
            cannot be told.
        own: samples of this rank; None likewise.
        giver: the first rank that has samples.
        everywhere: whether all ranks have samples.
        alike: whether all ranks have as many parts.
    """

    weight: Any
    parts: int
    first: int
    rows: tuple[int, ...] | None
    own: int | None
    giver: int
    everywhere: bool
    alike: bool


class Shares:
    """The shares of the batches of a step.

    Args:
        sums: over the ranks.
        parts: cuts the batches of this rank.
        device: where it computes.
    """

    def __init__(self, sums: Sums, parts: InParts, device: torch.device) -> None:
        self._sums, self._parts, self._device = sums, parts, device
        self._known: dict[Any, tuple[Any, Share | None]] = {}

    def __call__(self, node: Node, point: Point) -> Share | None:
        """The share of a node's batch, for which all ranks ask at once.

        Args:
            node: that is evaluated in parts.
            point: where.

        Returns:
            The share; None where nothing that it reads has parts.

        Raises:
            DataError: no rank has samples, or the ranks' shares of its several loaders differ.
        """
        batch = point.batch
        if not node.streams:  # the rows of signals, which are others at every evaluation
            return self._share(node, point)
        key: Any = tuple(map(id, batch)) if node.data_is_tuple else id(batch)
        # One answer for all that cut it alike, and do not count it in a way of their own.
        key = (node.split if node.count is None else node, node.combine == "sum", key)
        if key not in self._known:
            self._known[key] = batch, self._share(node, point)
        return self._known[key][1]

    def forget(self) -> None:
        """Let the batches of a step go."""
        self._known.clear()

    def _share(self, node: Node, point: Point) -> Share | None:
        pieces = None if _is_empty(node, point.batch) else self._parts.pieces(node, point)
        if pieces is None and not node.streams:
            return None
        ranks = self._sums.ranks
        own = [] if pieces is None else [pieces.sizes, *pieces.others]
        samples = [-1 if sizes is None else sum(sizes) for sizes in own]
        counted = 0 if pieces is None else pieces.total
        number = isinstance(counted, Tensor)
        streams = max(len(node.streams), 1)
        told = [*samples, *[0] * (streams - len(samples))]
        count = len(pieces) if pieces is not None and any(told) else 0
        each = ranks.exchange([count, number, float(counted) if count and not number else 0, *told])
        counts = [int(r[0]) for r in each]
        if not any(counts):
            raise DataError(f"{node.name}: no rank has samples of this batch.")
        if any(r[1] for r in each):
            weight: Any = self._of_tensors(counted if number else 0.0)
        else:
            total = sum(r[2] for r in each)
            if not total and node.count is not None:
                raise DataError(f"{node.name}: by its count= all ranks together count 0.")
            weight = counted / total if total else 1.0
        rows = [tuple(int(r[3 + i]) for r in each) for i in range(streams)]
        self._check(node, rows)
        known = all(n >= 0 for n in rows[0])
        return Share(
            weight if count else 0.0,
            count,
            ranks.rank * self._parts.parts,
            rows[0] if known else None,
            rows[0][ranks.rank] if rows[0][ranks.rank] >= 0 else None,
            next(r for r, c in enumerate(counts) if c),
            all(counts),
            len(set(counts)) == 1,
        )

    def _of_tensors(self, counted: Any) -> Any:
        """The weight of a count that is on a device, which nobody waits for."""
        own = torch.as_tensor(counted, device=self._device)
        own = own.to(torch.float32 if own.device.type == "mps" else torch.float64)
        with purpose("decision"):
            (total,) = self._sums.now([own])
        return own / total

    def _check(self, node: Node, rows: Sequence[tuple[int, ...]]) -> None:
        """Every loader gives the ranks the same weights, or there is no one mean over them."""
        if node.count is not None or node.combine == "sum":
            return
        first = rows[0]
        for other in rows[1:]:
            if any(a * sum(other) != b * sum(first) for a, b in zip(first, other, strict=True)):
                raise DataError(
                    f"{node.name}: the ranks have {list(first)} samples of its first loader and "
                    f"{list(other)} of another: a mean over ranks would weigh them differently. "
                    "Give batch sizes that the number of ranks divides (drop_last=True), count= "
                    "for the weight of a part, or split=False."
                )


def _is_empty(node: Node, batch: Any) -> bool:
    """Whether this rank has no samples of a batch."""
    held = batch if node.data_is_tuple and node.streams else [batch]
    return any(isinstance(b, EmptySlice) for b in held)

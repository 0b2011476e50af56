"""`HomeShares`: which part of a batch each rank of a node's home has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from .._containers.rows import even
from .._graph.homes import Home
from .._graph.node import Node
from .._graph.signal import Signal, join, split
from ..distributed.ranks import Ranks
from .in_parts import InParts
from .pieces import Pieces, cut, cut_rows
from .point import Point
from .shares import Share

__all__ = ["HomeShares"]

_APART = "the ranks that it lives on cannot share them"


class HomeShares:
    """Cuts whole batches, which every rank has, for the ranks of a home: nobody has to be asked.

    Args:
        ranks: of the engine.
        parts: takes what a rank has in parts.
        lined: the signals whose values have a row for each sample.
        nodes: that are evaluated in parts of their batches.
        homes: of the nodes that have one; the others are at home on all ranks.
    """

    def __init__(
        self,
        ranks: Ranks,
        parts: InParts,
        lined: frozenset[Signal],
        nodes: Collection[Node],
        homes: Mapping[Node, Home],
    ) -> None:
        self._ranks, self._parts, self._lined = ranks, parts, lined
        self._nodes, self._homes = nodes, homes
        self._known: dict[Any, tuple[Any, Pieces]] = {}  # of this step

    def __call__(self, node: Node, point: Point) -> Share | None:
        """What this rank has of a node's batch.

        Args:
            node: that is evaluated.
            point: where, with the whole batch.

        Returns:
            The share; None where every rank computes alike.

        Raises:
            DataError: a batch cannot be split.
        """
        home = self._homes.get(node)
        pieces = self._pieces(node, point)
        if pieces is None:
            return None if home is None else self._of_first(home, node, point)
        at, own = self._at(node), 0
        if (i := self._index(at)) < len(pieces):
            own = self._count(node, point, pieces, i)
        rows = None
        if pieces.sizes is not None:
            sizes = dict(zip(at, pieces.sizes, strict=False))
            rows = tuple(sizes.get(r, 0) for r in range(self._ranks.size))
        return Share(
            pieces.weights[i] if own else 0.0,
            own,
            i * self._parts.parts,
            rows,
            None if rows is None else rows[self._ranks.rank],
            at[0],
            len(pieces) == self._ranks.size,
            False,
        )

    def cut(self, node: Node, point: Point) -> Point:
        """A point as this rank has it: its slice of the batch, and its rows of what is read.

        Args:
            node: that is evaluated here.
            point: where, with the whole batch.

        Returns:
            The point.

        Raises:
            DataError: the batch and what is read have no parts in common.
        """
        pieces = self._pieces(node, point)
        i = self._index(self._at(node))
        if pieces is None or len(pieces) == 1 or i >= len(pieces):
            return point
        signals = dict(point.signals)
        for source in self._lined.intersection(signals):
            parts = split(signals[source], source.name)
            own = {k: pieces.rows(node, source, t, i, _APART) for k, t in parts.items()}
            signals[source] = join(signals[source], own)
        return replace(point, signals=signals, batch=pieces.batches[i])

    def forget(self) -> None:
        """Let the batches of a step go."""
        self._known.clear()

    def _at(self, node: Node) -> Home:
        """The ranks that have a part of a node's batch."""
        return self._homes.get(node) or tuple(range(self._ranks.size))

    def _index(self, home: Home) -> int:
        """Which of the ranks of a home this is; one too many if it is none."""
        rank = self._ranks.rank
        return home.index(rank) if rank in home else len(home)

    def _of_first(self, home: Home, node: Node, point: Point) -> Share:
        """All for the first rank of a home."""
        here = self._ranks.rank == home[0]
        pieces = self._parts.pieces(node, point) if here and node in self._nodes else None
        parts = 0 if not here else 1 if pieces is None else len(pieces)
        return Share(float(here), parts, 0, None, None, home[0], False, False)

    def _pieces(self, node: Node, point: Point) -> Pieces | None:
        """The parts of a batch, one for each rank; None where one rank takes all of it."""
        home = self._at(node)
        if node not in self._nodes or (len(home) == 1 and not isinstance(node, Signal)):
            return None
        if not node.streams:
            rows = {s: value for s, value in point.signals.items() if s in self._lined}
            return cut_rows(node, rows, len(home))
        batch = point.batch
        key = (node, *map(id, batch)) if node.data_is_tuple else (node, id(batch))
        if key not in self._known:
            self._known[key] = batch, cut(node, batch, len(home))
        return self._known[key][1]

    def _count(self, node: Node, point: Point, pieces: Pieces, i: int) -> int:
        """In how many parts this rank takes what it has."""
        if self._parts.parts == 1:
            return 1
        if not node.streams:
            assert pieces.sizes is not None
            return len(even(pieces.sizes[i], self._parts.parts))
        own = self._parts.pieces(node, replace(point, batch=pieces.batches[i]))
        return 1 if own is None else len(own)

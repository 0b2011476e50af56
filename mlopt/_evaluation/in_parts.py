"""`InParts`: nodes evaluated part by part, as a step with `Engine(parts=m)` evaluates them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .._errors import GraphError, exhausted
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.parts import lined_up, taken_in_parts
from .._graph.signal import Signal, join, split
from ..hypergrad.derivatives import uncounted
from .part_by_part import Evaluates, PartByPart, no_rows, part_seed
from .part_means import Written
from .pieces import Pieces, cut, cut_rows
from .point import Point

__all__ = ["InParts"]


class InParts:
    """Evaluates the nodes of a graph in parts of their batches.

    An objective is the mean over parts, weighted by what they count, or their sum:

        F(w; r) = sum_i p_i F_i(w; r_i)

    The value of a signal is that of its parts one behind the other, each of which stays with its
    part of a reader, or it is their sum or mean, which every part of a reader sees whole. Numbers
    are drawn for each part. Buffers are those that each part writes from where the step began, in
    the mean; whole numbers, such as counts of batches, are those of the first part.

    Args:
        graph: says which they are, and how many parts there are.
    """

    def __init__(self, graph: Graph) -> None:
        self.parts, self.nodes = graph.parts, taken_in_parts(graph.nodes)
        self._lined = lined_up(graph.nodes, self.nodes)
        self._joined = any(
            r.source in self._lined for n in graph.nodes if n not in self.nodes for r in n.reads
        )
        self._counts: dict[Node, int] = {}  # of parts, where a node was last evaluated in some
        self._alone: dict[Node, int] = {}  # the part that is evaluated for the whole
        self._cut: dict[Any, tuple[Any, Pieces]] = {}  # of this step

    def __call__(
        self,
        evaluator: Evaluates,
        node: Node,
        point: Point,
        *,
        owner: Iterable[Any] = (),
        keep: bool = False,
        twice: bool = False,
        start: Mapping[Any, list[Tensor]] | None = None,
        wide: bool = False,
        first: int = 0,
    ) -> tuple[Any, Written]:
        """Evaluate a node: as `Evaluator`, whose arguments these are.

        Besides, `first` says how many parts of other ranks come before those of this one.

        Returns:
            What it gave at the whole batch, and the buffers that it wrote.

        Raises:
            DataError: a batch cannot be split.
            GraphError: the value of a signal has no place for its samples.
        """
        pieces = self.pieces(node, point) if node in self.nodes else None
        if pieces is None or len(pieces) == 1:
            self._counts.pop(node, None)
            how = {"owner": owner, "keep": keep, "twice": twice, "start": start, "wide": wide}
            if first:
                point = replace(point, seed=part_seed(point.seed, first))
            return evaluator(node, point, **how)
        self._counts[node] = len(pieces)
        graph = torch.is_grad_enabled()
        start = dict(start) if start else None  # parts are computed again when it has moved on
        work = PartByPart(evaluator, node, point, pieces, self._lined, start, wide, twice, first)
        if node in self._alone:
            return work.alone(self._alone[node], keep), {}
        tensors = work.take_apart() if graph else []
        if isinstance(node, Signal):
            return work.signal(tensors, tuple(owner))
        return work.objective(tensors, tuple(owner), graph)

    def pieces(self, node: Node, point: Point) -> Pieces | None:
        """The parts of what a node reads.

        Args:
            node: that is evaluated in parts.
            point: where.

        Returns:
            They; None where nothing that it reads has parts.

        Raises:
            DataError: what it reads has no parts in common.
        """
        if not node.streams:
            rows = {s: value for s, value in point.signals.items() if s in self._lined}
            return cut_rows(node, rows, self.parts)
        batch = point.batch
        key = (node, *map(id, batch)) if node.data_is_tuple else (node, id(batch))
        if key not in self._cut:
            self._cut[key] = batch, cut(node, batch, self.parts)
        return self._cut[key][1]

    def first(self, node: Node, batch: Any) -> Any:
        """The first part of a batch, on which functions are checked: a batch may be too large."""
        whole = node not in self.nodes or not node.streams or self.parts == 1
        # What reads the rows of a whole batch is checked with all of them.
        return batch if whole or self._joined else cut(node, batch, self.parts).batches[0]

    def check_rows(self, evaluator: Evaluates, node: Signal, point: Point, value: Any) -> None:
        """Does the value of a signal have a row for each sample? It is asked for one sample less.

        Args:
            evaluator: of the graph.
            node: the signal.
            point: where it was checked.
            value: what it gave there.

        Raises:
            GraphError: its value has as many rows as before.
        """
        if node not in self._lined or callable(node.split) or not node.streams:
            return
        shapes = {k: t.shape for k, t in split(value, node.name).items()}
        (samples,) = cut(node, point.batch, 1).sizes or (0,)
        if (rows := samples - 1) < 1 or any(not s or s[0] != rows + 1 for s in shapes.values()):
            return  # too few to tell, or each step says it
        less = cut(node, point.batch, 1, rows)
        signals = {s: self._less(s, v, rows) for s, v in point.signals.items()}
        try:
            with torch.no_grad():
                at = Point(point.values, signals, less.batches[0], point.seed)
                found, _ = evaluator(node, at)
        except Exception as error:  # it takes batches of one size alone, and says so in its way
            if exhausted(error):
                raise
            return
        for name, t in split(found, node.name).items():
            if t.shape == shapes[name]:
                raise GraphError(no_rows(node, name, t.shape, rows))

    def _less(self, source: Signal, value: Any, rows: int) -> Any:
        """The value of a signal with so many rows, if it has rows."""
        if source not in self._lined:
            return value
        return join(value, {k: t[:rows] for k, t in split(value, source.name).items()})

    def one_by_one(self, node: Node) -> Callable[[], Iterator[AbstractContextManager[None]]] | None:
        """Blocks in which a problem's value is what one part adds to it.

        Args:
            node: the problem, evaluated at this batch before.

        Returns:
            () -> a block for each part; None where it has none.
        """
        if node not in self._counts:
            return None
        count = self._counts[node]
        return lambda: (self.only(node, i) for i in range(count))

    @contextmanager
    def only(self, node: Node, part: int) -> Iterator[None]:
        """A block in which a problem's value is what this part adds to it.

        Args:
            node: the problem.
            part: its index.
        """
        self._alone[node] = part
        try:
            with uncounted(part > 0):
                yield
        finally:
            del self._alone[node]

    def release(self) -> None:
        """Let the batches of a step go."""
        self._cut.clear()

"""The batches of one step: each is drawn when somebody first reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.stream import Stream

__all__ = ["Batches"]


class Batches:
    """What the nodes of a graph read from their streams in one step.

    Args:
        graph: the graph.
        draw: (stream) -> its next batch.
    """

    def __init__(self, graph: Graph, draw: Callable[[Stream], Any]) -> None:
        self.graph, self._draw = graph, draw
        self._common: dict[Stream, Any] = {}
        self._own: dict[Node, dict[Stream, Any]] = {}
        self._inner: dict[tuple[Any, int, Stream], Any] = {}

    def __call__(self, node: Node) -> Any:
        """The batch that a node reads now: from each of its streams."""
        if not node.streams:
            return None
        own = self._own.get(node, {})
        batches = []
        for stream in node.streams:
            if stream not in own and stream not in self._common:
                self._common[stream] = self._draw(stream)
            batches.append(own[stream] if stream in own else self._common[stream])
        return tuple(batches) if node.data_is_tuple else batches[0]

    def inside(self, node: Node, loops: Sequence[tuple[Problem, int]]) -> Any:
        """The batch that a node reads inside the inner steps of problems.

        Args:
            node: the node.
            loops: the problems and the indices of their inner steps, innermost first.

        Returns:
            The batch, from the step's own where no loop takes one of its own.
        """
        batches = []
        standing = self(node)
        for i, stream in enumerate(node.streams):
            looping = next(((p, k) for p, k in loops if stream in self.graph.streams(p)), None)
            if looping is None:
                batches.append(standing[i] if node.data_is_tuple else standing)
                continue
            key = (self._taker(looping[0]), looping[1], stream)
            if key not in self._inner:
                self._inner[key] = self._draw(stream)
            batches.append(self._inner[key])
        return tuple(batches) if node.data_is_tuple else batches[0] if batches else None

    def _taker(self, problem: Problem) -> Any:
        """Who takes the batches of inner steps: a problem, or a game whose players step at once."""
        game = self.graph.games.get(problem)
        return game if game is not None and game.play is not None and game.play.joint else problem

    def redraw(self, streams: Iterable[Stream], readers: Iterable[Node] | None) -> None:
        """Take a new batch from each stream.

        Args:
            streams: which.
            readers: the nodes that read the new ones; by default all.
        """
        fresh = {s: self._draw(s) for s in streams}
        if readers is None:
            self._common.update(fresh)
        else:
            for node in readers:
                self._own.setdefault(node, {}).update(fresh)

    def begin_anew(self) -> None:
        """The next inner steps take new batches: a commit has come between."""
        self._inner.clear()

"""The seeds of evaluations whose problems make several updates in a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem

__all__ = ["in_round"]

Seed = Callable[[Node, int], int]


def in_round(graph: Graph, seed: Seed, rounds: Mapping[Node, int]) -> Seed:
    """The seeds of a round: other numbers in each, and for all who evaluate a node the same ones.

    Args:
        graph: the graph.
        seed: (node, index) -> the seed of an evaluation; `Engine.seed_of` says what the index is.
        rounds: how often nodes have been committed or given new batches in this step, if ever.

    Returns:
        (node, inner step of its method) -> its seed.
    """

    def at(node: Node, inner: int) -> int:
        number = rounds.get(node, 0)
        steps = isinstance(node, Problem) and graph.methods[node].traced
        return seed(node, (number << 20) + inner if inner or steps else number)

    return at

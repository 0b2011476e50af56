"""`waves`: nodes that do not depend on one another, which ranks compute at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.relations import Sweep

__all__ = ["downwards", "upwards"]

Wave = list[Node]


def upwards(graph: Graph, nodes: Sequence[Node]) -> list[Wave]:
    """Nodes in waves, each of which reads what those before have given.

    Args:
        graph: the graph.
        nodes: that are evaluated at one point, in an order in which they can be.

    Returns:
        They, each as early as it can be.
    """
    below: dict[Node, list[Node]] = {}
    for node in nodes:
        read = (graph.source_node(node, r.source) for r in node.reads)
        below[node] = [b for b in read if b in below and _moves(graph, b)]
    return _in_waves(nodes, below)


def downwards(nodes: Sequence[Node], sweeps: Iterable[Sweep], graph: Graph) -> list[Wave]:
    """The nodes of reverse sweeps in waves, each of which gets cotangents from those before.

    Args:
        nodes: from the highest to the lowest.
        sweeps: the walks.
        graph: the graph.

    Returns:
        They, each as late as it can be: lower problems, whose products are what takes long, with
        one another.
    """
    after: dict[Node, list[Node]] = {node: [] for node in nodes}
    for sweep in sweeps:
        for node in sweep.nodes:
            below = (graph.source_node(node, source) for source in sweep.edges[node])
            after[node] += [b for b in below if b in after]
    return [wave[::-1] for wave in reversed(_in_waves([*reversed(nodes)], after))]


def _in_waves(nodes: Sequence[Node], after: dict[Node, list[Node]]) -> list[Wave]:
    """Nodes, each in the first wave behind all those that it comes after."""
    waves: list[Wave] = []
    place: dict[Node, int] = {}
    for node in nodes:
        place[node] = at = 1 + max((place[b] for b in after[node]), default=-1)
        if at == len(waves):
            waves.append([])
        waves[at].append(node)
    return waves


def _moves(graph: Graph, node: Node) -> bool:
    """Whether readers see what its evaluation gave."""
    return not isinstance(node, Problem) or graph.methods[node].moves

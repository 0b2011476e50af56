"""What keeps a problem's gradient from its own variable, on the way back from what it reads."""

from __future__ import annotations

from typing import Any

from .brief import brief
from .node import Node, Read
from .problem import Problem
from .relations import Relations

__all__ = ["obstacle"]


def obstacle(graph: Relations, upper: Problem, variable: Any) -> str:
    """Why nothing comes back to a variable that its problem does not use itself.

    What the problem reads may be made of the variable by others: then the list has another order
    than is meant, or a method or a stop cuts the way.

    Args:
        graph: the graph.
        upper: the problem.
        variable: one that it is over.

    Returns:
        The first obstacle on the shortest such way, and what to do; empty if there is no way.
    """
    way = _way(graph, upper, variable, graph.rank[upper]) or _way(graph, upper, variable)
    passed = [(reader, read, graph.node(read.source)) for reader, read in way[:-1]]
    if any(graph.rank[node] > graph.rank[reader] for reader, _, node in passed):
        order = " before ".join(node.name for node in (*(n for *_, n in passed[::-1]), upper))
        return (
            f"{way[-1][0].name} reads it, whose solution would reach {upper.name} in another "
            f"order: list {order}: problems are listed from the lowest level to the highest"
        )
    for reader, read in way:
        if read.stopped:
            return (
                f"{reader.name} reads {read.source.name} by stop(), through which no gradient "
                f"comes back to it: put {read.source.name} itself into given="
            )
    for _, _, node in passed:
        if isinstance(node, Problem) and not graph.methods[node].responds:
            return (
                f"{way[-1][0].name} reads it, and {brief(graph.methods[node])} lets no gradient "
                f"come back through {node.name}: give {node.name} a method that does, such as "
                "hypergrad=OneStep()"
            )
    return ""


def _way(
    graph: Relations, upper: Problem, variable: Any, below: int | None = None
) -> list[tuple[Node, Read]]:
    """The shortest way from a problem to who reads its variable, whatever the order of the list.

    Args:
        graph: the graph.
        upper: the problem.
        variable: one that it is over.
        below: what has this rank, or a higher one, is not gone through.

    Returns:
        Readers and reads, the read of the variable last; empty if there is none.
    """
    ways: dict[Node, list[tuple[Node, Read]]] = {upper: []}
    waiting: list[Node] = [upper]
    for node in waiting:
        for read in node.reads:
            way = [*ways[node], (node, read)]
            if read.source is variable and node is not upper:
                return way
            rank = graph.rank[source := graph.node(read.source)]
            apart = rank != graph.rank[upper] and (below is None or rank < below)
            if apart and source not in ways:
                ways[source] = way
                waiting.append(source)
    return []

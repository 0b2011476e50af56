"""How often nested levels differentiate an objective."""

from __future__ import annotations

from .levels import Levels
from .node import Node
from .problem import Problem

__all__ = ["enclosing", "moved_with", "orders"]


def enclosing(graph: Levels, node: Node) -> list[Problem]:
    """The middle problems in whose total objectives a node follows, and that are read above.

    Args:
        graph: the graph.
        node: a problem, whose solution follows, or a signal.

    Returns:
        They, lowest first.
    """
    return [
        p
        for p in graph.problems
        if node in graph.follows(p)
        and graph.methods[p].responds
        and any(p in graph.needed(top)[1:] for top in graph.problems)
    ]


def moved_with(graph: Levels, problem: Problem) -> frozenset[Node]:
    """What is found anew wherever a middle problem is displaced, and enters its total objective.

    Args:
        graph: the graph.
        problem: the problem.

    Returns:
        Signals and lower problems; none where nobody above reads it.
    """
    if not any(problem in graph.needed(top)[1:] for top in graph.problems):
        return frozenset()
    return graph.follows(problem).intersection(graph.needed(problem)[1:])


def orders(graph: Levels) -> dict[Problem, int]:
    """How often objectives are differentiated, at the most.

    Once for its own update and by finite differences, twice where its method takes exact products
    or goes back through its steps; and once more for each level around it that does so.

    Args:
        graph: the graph.

    Returns:
        The order for each problem.
    """
    nested = not all(map(graph.staged, graph.problems))
    found: dict[Problem, int] = {}
    for problem in reversed(graph.problems):  # what is around a problem is above it
        method = graph.methods[problem]
        own = 2 if method.responds and (method.cost.keeps_graph or method.traced) else 1
        around = [found[p] for p in enclosing(graph, problem)] if nested else []
        found[problem] = own + max(around, default=1) - 1
    return found

"""Which gradients of a step are taken by total objectives, and which by the sweep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .._sweep.scope import Frame

__all__ = ["followed"]


def followed(
    graph: Graph, problems: Sequence[Problem], dormant: frozenset[Problem]
) -> set[Problem]:
    """The problems whose gradients are taken where lower solutions follow.

    Besides the nested ones these are staged ones that cost nothing or less so: what a nested reader
    evaluates where it stands serves a lower problem's own update as well, and a problem that
    anticipates nothing reads values that are then known. The sweep keeps what it evaluates once for
    several, and the members of stacks, which it evaluates as one.

    Args:
        graph: the graph.
        problems: computed at one point, lowest first; none takes several steps.
        dormant: problems before their start.

    Returns:
        Some of them.
    """
    nested = {p for p in problems if not graph.staged(p, dormant)}
    if not nested:
        return nested
    staged = [p for p in problems if p not in nested and p not in graph.stacks]
    served = _served(graph, nested, dormant)
    sweeping = {p for p in problems if p not in nested and p not in served}
    idle = {p for p in staged if p in sweeping and not graph.sweep(p, dormant).nodes}
    swept = {n for p in sweeping - idle for n in graph.needed(p, dormant)}
    for problem in sorted(idle, key=graph.place.__getitem__):
        needed = graph.needed(problem, dormant)[1:]
        lower = {n for n in needed if isinstance(n, Problem)}
        if lower <= served | nested and swept.isdisjoint(needed):
            sweeping.discard(problem)
        else:
            swept.update(needed)
    return nested | {p for p in staged if p not in sweeping}


def _served(graph: Graph, nested: Iterable[Problem], dormant: frozenset[Problem]) -> set[Node]:
    """The problems that the evaluations of nested ones evaluate where they stand."""
    served: set[Node] = set()
    frames = [Frame(graph, dormant, p) for p in nested]
    for frame in frames:
        for node in frame.resolved():
            if not isinstance(node, Problem) or node in served or frame.stands(node):
                continue
            shared = graph.separable(node, dormant) and not graph.methods[node].traced
            if shared and not frame.displaces(node):
                served.add(node)
                frames.append(frame.below(node))
    return served

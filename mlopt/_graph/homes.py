"""`homes_of`: where each node is evaluated, by where variables live."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._errors import GraphError
from .._variable import Variable
from .graph import Graph
from .node import Node
from .problem import Problem

__all__ = ["Home", "homes_of"]

#: The ranks on which a node is evaluated, in their order; or a device of this process.
Home = Any


def homes_of(graph: Graph, at: Mapping[Variable, Home]) -> dict[Node, Home]:
    """Where each node of a graph is evaluated.

    A problem is where the variables live that it is minimised over. A signal is where the first
    thing lives that it reads and that has a home.

    Args:
        graph: the graph.
        at: where variables live.

    Returns:
        The home of each node that has one.

    Raises:
        GraphError: a problem would be in two.
    """
    found: dict[Node, Home] = {}
    for problem in graph.problems:
        own = {at.get(v) for v in problem.over}
        if len(own) > 1:
            where = ", ".join(f"{v.name} on {_said(at.get(v))}" for v in problem.over)
            raise GraphError(
                f"Engine: places= has {problem.name}, which is minimised over several variables, "
                f"in several places: {where}. It is evaluated in one: give all of them that."
            )
        if (home := own.pop()) is not None:
            found[problem] = home
    for node in graph.nodes:  # a signal comes behind those that it reads
        if isinstance(node, Problem):
            continue
        sources = (r.source for r in node.reads)
        homes = (found.get(s) if isinstance(s, Node) else at.get(s) for s in sources)
        if (home := next((h for h in homes if h is not None), None)) is not None:
            found[node] = home
    return found


def _said(home: Home | None) -> str:
    if home is None:
        return "all ranks"
    if isinstance(home, tuple):
        return f"rank{'s' if len(home) > 1 else ''} {' and '.join(map(str, home))}"
    return str(home)

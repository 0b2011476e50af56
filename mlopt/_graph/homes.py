"""`homes_of`: on which ranks each node is evaluated, where variables live on some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._arguments import shown
from .._errors import GraphError
from .._variable import Variable
from .graph import Graph
from .node import Node
from .problem import Problem

__all__ = ["Home", "homes_of"]

#: The ranks on which a node is evaluated, in their order.
Home = tuple[int, ...]


def homes_of(graph: Graph, places: Mapping[Variable, int | Sequence[int]], ranks: int) -> Any:
    """On which ranks each node of a graph is evaluated.

    A problem is where the variables live that it is minimised over. A signal is where the first
    thing lives that it reads and that has a home.

    Args:
        graph: the graph.
        places: the ranks on which variables live; others live on all.
        ranks: how many there are.

    Returns:
        The home of each node that has one; others are evaluated on all ranks.

    Raises:
        GraphError: a place is none, or a problem would be in two.
    """
    at = {_variable(graph, v): _home(v, place, ranks) for v, place in places.items()}
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
    waiting = True
    while waiting:  # a signal may come behind its reader
        waiting = False
        for node in graph.nodes:
            if node in found or isinstance(node, Problem):
                continue
            sources = (r.source for r in node.reads)
            homes = (found.get(s) if isinstance(s, Node) else at.get(s) for s in sources)
            if (home := next((h for h in homes if h is not None), None)) is not None:
                found[node] = home
                waiting = True
    return found


def _variable(graph: Graph, variable: Any) -> Variable:
    if not isinstance(variable, Variable) or variable not in graph.owner:
        what = f"the variable {variable.name}" if isinstance(variable, Variable) else None
        raise GraphError(
            f"Engine: places= names {what or shown(variable)}, over which no problem of this "
            "engine is minimised. Its keys are variables of its problems."
        )
    return variable


def _home(variable: Variable, place: Any, ranks: int) -> Home:
    where = f"Engine(places={{{variable.name}: {shown(place)}}}): "
    listed = place if isinstance(place, tuple | list) else (place,)
    for rank in listed:
        if isinstance(rank, bool) or not isinstance(rank, int):
            raise GraphError(
                f"{where}a variable lives on a rank, or on a tuple of them, such as 0 or (0, 1)."
            )
        if not 0 <= rank < ranks:
            raise GraphError(
                f"{where}there is no rank {rank} among the {ranks} of this engine, which are "
                f"counted from 0 to {ranks - 1}."
            )
    if not listed:
        raise GraphError(f"{where}it has to live somewhere. Leave it out for all ranks.")
    if len({*listed}) < len(listed):
        raise GraphError(f"{where}a rank is named twice.")
    return tuple(sorted(listed))


def _said(home: Home | None) -> str:
    if home is None:
        return "all ranks"
    return f"rank{'s' if len(home) > 1 else ''} {' and '.join(map(str, home))}"

"""Evaluations of a stack's members, which a plan has here and there, put next to each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.stacking import members as stacked
from .._variable import Variable
from .operations import Commit, Decide, Draw, Evaluate, Operation, Settled

__all__ = ["fuse", "join"]


def join(graph: Graph, evaluations: Sequence[Evaluate]) -> list[Evaluate]:
    """Mark evaluations of one stack as made together.

    Args:
        graph: the graph.
        evaluations: of different members.

    Returns:
        They, in the order of the members.
    """
    ordered = sorted(evaluations, key=lambda e: graph.nodes.index(e.node))
    if len(ordered) > 1:
        for evaluation in ordered:
            evaluation.together = tuple(ordered)
    return ordered


def fuse(
    graph: Graph, operations: list[Operation], needs: Callable[[Node], Sequence[Node]]
) -> None:
    """Make the evaluations of a stack's members together where each would give what it gives alone.

    An evaluation is moved forward to that of another member over operations that change nothing of
    what it depends on. None is added, and none is moved over a draw or where the plan may branch.

    Args:
        graph: the graph.
        operations: of the plan, changed in place.
        needs: (node) -> it and all that is evaluated for it.
    """
    if not graph.stacks:
        return
    at = 0
    while at < len(operations):
        first = operations[at]
        if isinstance(first, Evaluate) and not first.together:
            members = stacked(graph, first.node)
            beside, below = _followers(operations, at, members, needs)
            if beside:
                moved = [*below, first, *beside]
                end = 1 + max(i for i, o in enumerate(operations) if any(o is b for b in beside))
                rest = [o for o in operations[at:end] if not any(o is m for m in moved)]
                operations[at:end] = [*below, *join(graph, [first, *beside]), *rest]
                continue  # with what was moved here, which may be in a stack itself
        at += 1


def _followers(
    operations: Sequence[Operation],
    at: int,
    members: Sequence[Node],
    needs: Callable[[Node], Sequence[Node]],
) -> tuple[list[Evaluate], list[Evaluate]]:
    """The evaluations that can be made with the one at this place, and those before them."""
    first = operations[at]
    assert isinstance(first, Evaluate)
    branches = {o.end for o in operations if isinstance(o, Settled)}
    changed: set[Variable] = set()
    between: list[Evaluate] = []
    beside: list[Evaluate] = []
    below: list[Evaluate] = []
    for i, operation in enumerate(operations[at + 1 :], at + 1):
        if i in branches or isinstance(operation, Draw | Settled | Decide):
            break
        if isinstance(operation, Commit):
            changed.update(operation.problem.over)
        elif isinstance(operation, Evaluate):
            node = operation.node
            if node in members and operation.inner == first.inner and not operation.together:
                needed = needs(node)
                sources = {r.source for n in needed for r in n.reads}
                before = [e for e in between if e.node in needed and all(e is not b for b in below)]
                if changed.isdisjoint(sources) and not any(e.together for e in before):
                    below += before
                    beside.append(operation)
                    continue
            between.append(operation)
    return beside, below

"""Third and higher derivatives that nested levels need, and what takes their place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping

from .._errors import CapabilityWarning, GraphError, MloptError, exhausted
from .._evaluation.capability import Lack, by_differences, say_region
from .._evaluation.point import Evaluator
from .._graph.brief import brief
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.orders import enclosing, orders
from .._graph.problem import Problem

__all__ = ["mend_nested"]


def mend_nested(
    graph: Graph,
    evaluator: Evaluator,
    shallow: Mapping[Node, Lack],
    attempt: Callable[[Problem], None],
) -> None:
    """Evaluate otherwise, or take differences, where nested levels need a derivative that lacks.

    Whether they do is tried: not every way through the levels takes all of them. What autograd
    passes by without an error cannot be, and counts as needed.

    Args:
        graph: of which methods and notes may be changed.
        evaluator: of the graph.
        shallow: the nodes that cannot be differentiated as often as may be needed, and why.
        attempt: takes the whole gradient of a problem, and forgets it.

    Raises:
        GraphError: no method that could take differences helps.
    """

    def fails() -> bool:
        try:
            for p in graph.problems:
                if not graph.staged(p):
                    attempt(p)
        except MloptError:
            return False  # a step says it better
        except RuntimeError as error:  # torch has no type of its own for it
            if exhausted(error):
                raise
            return True
        return False

    given: dict[Node, Lack] = {}

    def lacks() -> bool:
        passed_by = (n for n, lack in shallow.items() if lack.silent and n not in given)
        return any(shallow[n].order <= _order(graph, n) for n in passed_by) or fails()

    if not shallow or not lacks():
        return
    before, regions = dict(graph.methods), dict(evaluator.regions)
    named = " and ".join(graph.labels[n] for n in shallow)
    why = (
        "nested levels differentiate {} more often than is possible: "
        f"{next(iter(shallow.values())).reason}"
    )
    changed: list[Problem] = []
    try:
        given |= {n: lack for n, lack in shallow.items() if lack.give(evaluator, n)}
        helps = bool(given) and not lacks()
        for problem in () if helps else _could(graph, shallow):
            other = by_differences(before[problem])
            if other is None or not before[problem].cost.keeps_graph:
                continue
            graph.methods[problem] = other
            changed.append(problem)
            if helps := not lacks():
                break
        if not helps:
            games = (graph.games.get(n) for n in shallow if isinstance(n, Problem))
            there = "" if any(g is not None and g.traced for g in games) else "there or "
            raise GraphError(
                f"{named}: {why.format('its objective')} Use OneStep or Implicit with "
                f"product=Central() {there}on a problem above, which take differences of first "
                "derivatives; or Frozen()."
            )
    except BaseException:
        graph.methods.update(before)
        evaluator.regions = regions
        raise
    for node, lack in given.items():
        say_region(graph, node, lack)
    for p in changed:
        what = f"central differences for {brief(before[p])}"
        graph.notes[p] = what
        warnings.warn(
            f"{graph.labels[p]}: {what}, because {why.format('the objective of ' + named)}",
            CapabilityWarning,
            stacklevel=2,
        )


def _order(graph: Graph, node: Node) -> int:
    """How often a node is differentiated, at the most; a signal, with those it follows in."""
    often = orders(graph)
    within = [node] if isinstance(node, Problem) else enclosing(graph, node)
    return max((often[p] for p in within), default=1)


def _could(graph: Graph, shallow: Iterable[Node]) -> Iterable[Problem]:
    """The problems whose differences could help: they, and those around them."""
    around = [p for node in shallow for p in enclosing(graph, node)]
    return dict.fromkeys([*(n for n in shallow if isinstance(n, Problem)), *around])

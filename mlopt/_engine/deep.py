"""Third and higher derivatives that nested levels need, and what takes their place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

from .._errors import CapabilityWarning, GraphError, MloptError
from .._evaluation.capability import by_differences
from .._graph.brief import brief
from .._graph.graph import Graph
from .._graph.orders import enclosing
from .._graph.problem import Problem

__all__ = ["mend_nested"]


def mend_nested(
    graph: Graph, shallow: Mapping[Problem, str], attempt: Callable[[Problem], None]
) -> None:
    """Take differences where nested levels would need a derivative that an objective lacks.

    Whether they do is tried: not every way through the levels takes all of them.

    Args:
        graph: of which methods and notes may be changed.
        shallow: the problems that cannot be differentiated as often as may be needed, and why.
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
        except RuntimeError:  # torch has no type of its own for it
            return True
        return False

    if not shallow or not fails():
        return
    before, named = dict(graph.methods), " and ".join(graph.labels[p] for p in shallow)
    why = (
        "nested levels differentiate {} three times or more, which fails: "
        f"{next(iter(shallow.values()))}"
    )
    around = [p for problem in shallow for p in enclosing(graph, problem)]
    changed: list[Problem] = []
    for problem in dict.fromkeys([*shallow, *around]):
        other = by_differences(before[problem])
        if other is None or not before[problem].cost.keeps_graph:
            continue
        graph.methods[problem] = other
        changed.append(problem)
        if fails():
            continue
        for p in changed:
            what = f"central differences for {brief(before[p])}"
            graph.notes[p] = what
            warnings.warn(
                f"{graph.labels[p]}: {what}, because {why.format('the objective of ' + named)}",
                CapabilityWarning,
                stacklevel=2,
            )
        return
    graph.methods.update(before)
    games = (graph.games.get(p) for p in shallow)
    there = "" if any(g is not None and g.traced for g in games) else "there or "
    raise GraphError(
        f"{named}: {why.format('its objective')} Use OneStep or Implicit with "
        f"product=Central() {there}on a problem above, which take differences of first "
        "derivatives; or Frozen()."
    )

"""The parts of a search: steps of a stage that update the same problems cost the same."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlopt.report.positions import number
from mlopt.report.run_data import RunData

__all__ = ["Part", "parts", "updated"]

_PHASE, _PLANS = "search", "plan"


@dataclass
class Part:
    """The steps of a search that update the same problems.

    Attributes:
        problems: that are updated, in the order of the log; with their learners' names.
        stage: of the search space, if it has several; the networks of each are others.
        steps: how many.
        seconds: that they took together, without what is done between epochs.
        each: what one step took, at each row of the log.
        calls: of networks in one step, at each row; empty if the log does not count them.
        plan: evaluations and backward passes of a step, as the engine planned it; None if the log
            does not say.
    """

    problems: tuple[str, ...]
    stage: float | None = None
    steps: float = 0.0
    seconds: float = 0.0
    each: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    plan: tuple[float, float] | None = None

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.each)

    @property
    def passes(self) -> float | None:
        """Of networks in a step; a median, for the first step also checks the functions."""
        return statistics.median(self.calls) if self.calls else None

    @property
    def planned(self) -> float | None:
        """Evaluations and backward passes of all steps together."""
        return None if self.plan is None else self.steps * sum(self.plan)


def updated(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The problems that the step of a row has updated: those with a gradient, or with a loss.

    Args:
        row: of a search.

    Returns:
        Their names, in the order of the row.
    """
    for metric in ("/gradient_norm", "/loss"):
        found = tuple(key.removesuffix(metric) for key in row if key.endswith(metric))
        if found:
            return found
    return ()


def parts(run: RunData) -> list[Part]:
    """The parts of a run's search, in the order in which they begin.

    A row of the log stands for the steps since the row before it.

    Args:
        run: with rows of the phase "search", and of "plan", where the engine's plan has changed.

    Returns:
        A part for each set of problems, of each stage; none if the rows have no times.
    """
    found: dict[tuple[object, frozenset[str]], Part] = {}
    before = 0.0
    for row, steps, seconds in run.timed(_PHASE):
        problems, stage = updated(row), number(row.get("stage"))
        part = found.setdefault((stage, frozenset(problems)), Part(problems, stage))
        part.steps += steps
        part.seconds += steps * seconds
        part.each.append(seconds)
        passes = number(row.get("passes"))
        if passes is not None:
            now = passes - (number(row.get("between_passes")) or 0.0)
            part.calls.append((now - before) / steps)
            before = now
        part.plan = _plan(run.phases.get(_PLANS, []), number(row.get("step"))) or part.plan
    return list(found.values())


def _plan(plans: Sequence[Mapping[str, Any]], step: float | None) -> tuple[float, float] | None:
    """That of the step: the last one which was made before it."""
    for row in reversed(plans):
        before = number(row.get("step"))
        cost = number(row.get("evaluations")), number(row.get("backwards"))
        if step is not None and before is not None and before < step and None not in cost:
            return cost[0] or 0.0, cost[1] or 0.0
    return None

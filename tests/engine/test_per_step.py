"""`PerStep` steps a scheduler once in each engine step that updates its problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from small import bilevel
from torch.optim.lr_scheduler import OneCycleLR

import mlopt
from mlopt import Alternate, Frozen, Loops, OneStep, Unrolled

#: How three updates are made in each step, and the options of the lower problem.
CASES: dict[str, tuple[Callable[[Any, Any], dict[str, Any]], dict[str, Any]]] = {
    "turns": (lambda low, up: {"schedule": Alternate((low, 3), (up, 1))}, {}),
    "loops": (lambda low, up: {"schedule": Loops((low, 3), (up, 1))}, {}),
    "repeat": (lambda low, up: {}, {"hypergrad": Frozen(), "lower": {"repeat": 3}}),
    "several steps": (lambda low, up: {}, {"hypergrad": Unrolled(3)}),
}


@pytest.mark.parametrize("name", CASES)
def test_twelve_updates_in_four_steps_step_it_four_times(name: str) -> None:
    schedule, options = CASES[name]
    case = bilevel(**{"hypergrad": OneStep(), **options})
    optimizer = case.lower.optimizer
    assert optimizer is not None
    cycle = OneCycleLR(optimizer, max_lr=0.1, total_steps=4)  # a fifth time it would raise
    case.lower.scheduler = mlopt.PerStep(cycle)
    engine = case.engine(**schedule(case.lower, case.upper))
    engine.run(steps=4, progress=False)
    assert cycle.last_epoch == 4


def test_a_step_that_does_not_update_its_problem_does_not_step_it() -> None:
    case = bilevel(upper={"every": 2})
    optimizer = case.upper.optimizer
    assert optimizer is not None
    case.upper.scheduler = mlopt.PerStep(cycle := OneCycleLR(optimizer, max_lr=0.1, total_steps=2))
    case.engine().run(steps=4, progress=False)
    assert cycle.last_epoch == 2

"""Nested graphs whose problems make several updates in a step, or none: plans, draws, reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import mlopt
from mlopt import Alternate, Frozen, Implicit, OneStep, Simultaneous, Unrolled, UpperFirst

Schedule = Callable[[Any, Any, Any], Any]
SCHEDULES: dict[str, Schedule] = {
    "simultaneous": lambda low, middle, top: Simultaneous(),
    "upper first": lambda low, middle, top: UpperFirst(),
    "rounds of all": lambda low, middle, top: Alternate(((low, middle, top), 3)),
    "rounds of each": lambda low, middle, top: Alternate((low, 3), (middle, 2), (top, 3)),
}
METHODS = {"one step": OneStep(), "unrolled": Unrolled(2), "implicit": Implicit()}


def three_levels(
    schedule: Schedule, method: Any, nested: bool = True, **low_options: Any
) -> tuple[mlopt.Engine, list[tuple[str, float]]]:
    """A bottom, a middle that steers it if wanted, a top; and who is evaluated, with what draw."""
    W, M, A = (mlopt.Variable(nn.Parameter(torch.full((2,), x, dtype=torch.float64)), n)
               for n, x in (("w", 0.5), ("m", -0.3), ("a", 0.2)))  # fmt: skip
    seen: list[tuple[str, float]] = []

    def drawn(name: str) -> float:
        seen.append((name, torch.rand(()).item()))
        return 1 + seen[-1][1]

    def sgd(v: mlopt.Variable) -> torch.optim.Optimizer:
        return torch.optim.SGD(v.parameters(), lr=0.01)

    given = [M, A] if nested else [A]

    @mlopt.problem(over=W, given=given, optimizer=sgd(W), hypergrad=method, **low_options)
    def low(w, *above):
        return drawn("low") * sum(((w - x) ** 2).sum() for x in above)

    @mlopt.problem(over=M, given=[W, A], optimizer=sgd(M), hypergrad=OneStep())
    def middle(m, w, a):
        return drawn("middle") * ((m - w) ** 2).sum() + ((m - a) ** 2).sum()

    @mlopt.problem(over=A, given=[W, M], optimizer=sgd(A))
    def top(a, w, m):
        return drawn("top") * ((a - w - m) ** 2).sum()

    return mlopt.Engine([low, middle, top], schedule=schedule(low, middle, top)), seen


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_plan_before_the_first_step_is_what_is_evaluated(schedule: str, method: str) -> None:
    engine, seen = three_levels(SCHEDULES[schedule], METHODS[method])
    before = engine.plan().evaluations
    for _ in range(2):
        seen.clear()
        engine.step()
    assert len(seen) == before == engine.plan().evaluations


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(("method", "steps"), [("one step", 1), ("unrolled", 2)])
def test_each_round_draws_anew(method: str, steps: int, nested: bool) -> None:
    """And within a round all evaluations of a node draw the same."""
    engine, seen = three_levels(SCHEDULES["rounds of all"], METHODS[method], nested)
    engine.step()
    seen.clear()
    engine.step()
    draws = {name: {x for n, x in seen if n == name} for name, _ in seen}
    assert {name: len(found) for name, found in draws.items()} == {
        "low": 3 * steps, "middle": 3, "top": 3,
    }  # fmt: skip


def test_the_draws_are_those_of_the_stated_seeds() -> None:
    engine, seen = three_levels(SCHEDULES["rounds of all"], METHODS["unrolled"])
    low, middle, _ = engine.graph.problems

    def draw(problem: mlopt.Problem, index: int) -> float:
        with torch.random.fork_rng():
            torch.manual_seed(engine.seed_of(problem, index))
            return torch.rand(()).item()

    inner = {draw(low, (r << 20) + k if r else k) for r in range(3) for k in range(2)}
    rounds = {draw(middle, r) for r in range(3)}
    engine.plan()
    seen.clear()
    engine.step()  # the check came before the plan
    assert {x for name, x in seen if name == "low"} == inner
    assert {x for name, x in seen if name == "middle"} == rounds


@pytest.mark.parametrize("nested", [True, False])
def test_a_problem_that_is_read_and_not_updated_is_reported(nested: bool) -> None:
    engine, _ = three_levels(SCHEDULES["simultaneous"], OneStep(), nested, every=2)
    for _ in range(2):
        metrics = engine.step()
        assert "low/loss" in metrics


def test_what_is_frozen_is_read_without_being_evaluated() -> None:
    engine, seen = three_levels(SCHEDULES["simultaneous"], Frozen(), every=2)
    engine.step()
    seen.clear()
    assert "low/loss" not in engine.step()
    assert "low" not in {name for name, _ in seen}

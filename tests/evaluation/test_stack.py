"""Stacked learners: evaluated as one, and the same numbers as one by one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from compare import exact
from evaluation.stacked import ROUNDING, Learners, by_name, close, learners, run
from grids import thinned
from small import assert_same, state_of

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import stacked_learners  # noqa: E402

import mlopt  # noqa: E402
from mlopt import (  # noqa: E402
    Alternate,
    Central,
    Exact,
    Frozen,
    OneSided,
    OneStep,
    Sequential,
    UpperFirst,
)

#: Of differences, rounding is divided by their radius.
PRODUCTS = {
    "exact": (Exact(), ROUNDING),
    "central": (Central(0.01), ROUNDING / 0.01),
    "one_sided": (OneSided(0.01), ROUNDING / 0.01),
}


@pytest.mark.parametrize(("k", "kind", "row"), thinned(4, (2, 3, 4), ("sgd", "adam"), PRODUCTS))
def test_a_stack_gives_the_numbers_of_the_list_without_it(k, kind, row):
    product, bound = PRODUCTS[row]

    def make() -> Learners:
        return learners(k, kind, own_streams=k == 3)

    method = OneStep(0.1, product) if k == 3 else OneStep(product=product)
    plain, before, _ = run(False, make, hypergrad=method)
    seen, after, engine = run(True, make, hypergrad=method)
    close(seen, plain, bound)
    close(after, before, bound)
    assert "evaluated as one: first#1, first#2" in str(engine.plan())
    moved = [t for g, _, _ in seen for t in g["last"].values()]
    assert all(t[""].norm() > 1e-6 for t in moved)


@pytest.mark.parametrize(("product", "bound"), PRODUCTS.values(), ids=PRODUCTS)
def test_all_learners_may_read_one_variable(product, bound):
    method = OneStep(product=product)
    plain, before, _ = run(False, lambda: learners(3, shared=True), hypergrad=method)
    seen, after, _ = run(True, lambda: learners(3, shared=True), hypergrad=method)
    close(seen, plain, bound)
    close(after, before, bound)


@pytest.mark.parametrize(
    ("schedule", "repeat"), thinned(2, [Sequential(), UpperFirst(), None], [1, 2])
)
def test_every_schedule_and_repeats(schedule, repeat):
    def make() -> Learners:
        return learners(3, repeat=repeat)

    frozen = isinstance(schedule, Sequential) or repeat > 1
    method = Frozen() if frozen else OneStep()
    plain, before, _ = run(False, make, hypergrad=method, schedule=schedule)
    seen, after, engine = run(True, make, hypergrad=method, schedule=schedule)
    close(seen, plain)
    close(after, before)
    if repeat == 1:
        assert "as one: second#1, second#2, second#3" in str(engine.plan())


def test_members_may_take_turns_of_their_own():
    def turns(made: Learners) -> Any:
        turn = [(made.first[0], 3), *((p, 1) for p in made.first[1:])]
        return Alternate(*turn, *((p, 1) for p in made.second), (made.last, 1))

    def run_turns(stacked: bool) -> Any:
        made = learners(2)
        engine = made.engine(stacked, hypergrad=Frozen(), schedule=turns(made))
        return [engine.step() for _ in range(3)], state_of(engine, *made.memories)

    close(run_turns(True), run_turns(False))


def test_displaced_evaluations_see_the_masks_of_the_base_evaluation():
    """Differences of the same masks tend to the exact product; of others they would not."""
    plain, central, sided = (
        learners(3, noise=0.4).engine(True, hypergrad=OneStep(product=p))
        for p in (Exact(), Central(1e-4), OneSided(1e-6))
    )
    wanted = by_name(plain.hypergradient(plain.graph.problems[-1]))
    why = "radius^2 / 6 or radius / 2 of derivatives that grow tenfold; rounding / radius"
    for engine, bound in (
        (central, 100 * 1e-4**2 / 6 + ROUNDING / 1e-4),
        (sided, 10 * 1e-6 / 2 + ROUNDING / 1e-6),
    ):
        close(by_name(engine.hypergradient(engine.graph.problems[-1])), wanted, bound, why)


def test_one_learner_is_a_stack_too():
    plain, before, _ = run(False, lambda: learners(2), hypergrad=OneStep())
    made = learners(2)
    engine = mlopt.Engine(
        [mlopt.Stack([p]) for p in (*made.first, *made.labels, *made.second)] + [made.last],
        hypergrad=OneStep(),
    )
    for _, metrics, _ in plain:
        assert_same(engine.step(), metrics)
    assert_same(state_of(engine, *made.memories), before)


def test_the_graph_says_who_is_stacked():
    engine = learners(2).engine(True, hypergrad=OneStep())
    assert "stacked with first#2" in str(engine.graph)
    assert "Stack([first, first])" in repr(mlopt.Stack(learners(2).first))


# The benchmark.


def test_the_benchmark_compares_equal_engines(capsys, tmp_path):
    arguments = ["--sizes", "mlp 16", "conv 8", "--learners", "2", "--pairs", "1"]
    rows = stacked_learners.main([*arguments, "--output", str(tmp_path / "table.md")])
    assert [r["network"] for r in rows] == ["mlp 16", "conv 8"]
    for r in rows:
        exact(float(r["difference"]), 0.0, ROUNDING / 0.01, scale=1.0)
    exact(stacked_learners.difference("conv 8", 3, "exact", "cpu"), 0.0, ROUNDING, scale=1.0)
    assert "stacked / one by one" in (tmp_path / "table.md").read_text() in capsys.readouterr().out

"""Nested levels: a middle problem that steers its own lower problems, with every exact method.

Random graphs against an oracle that sees only the order of the list (`nested_oracle.py`), and what
following an optimum by one Newton step loses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compare import agree, exact, near
from nested_graphs import Facts, draw_nested
from nested_oracle import SETTLED, Nested, Optimum, Steps, Stopped, settle
from oracles import assert_same_gradients, relative_error, sweep_rounding
from sweep.nested_methods import (
    CURVATURE,
    draw_steps,
    hypergradients,
    implicit,
    problems_of,
    steps,
    strict,
)

import mlopt
from mlopt import CG, Dense, Frozen, Implicit, OneStep, StopGradient, Unrolled

#: Graphs of every run; the slow tests have the others.
FAST = 10
#: Graphs of one test of steps, of which the first is of every run.
BLOCK = 10
LEFT = "what `settle` leaves, and an evaluation in another order"
SOLVED = "CG stops at 1e-13, and the least curvature enlarges that"
#: Three steps of each problem at each of four lower levels, which a step of the one above repeats.
UNROLLED = sweep_rounding(3**4)


def check(
    nodes: list[Any],
    kinds: dict[Any, Any],
    expected: dict[Any, Any],
    bound: float,
    label: str,
    why: str = "",
) -> None:
    """Every problem's hypergradient, each tensor by itself; an optimum's own is zero."""
    engine = mlopt.Engine(nodes, hypergrad=Frozen())
    for problem in problems_of(nodes):
        found, what = engine.hypergradient(problem), f"{label} {problem.name}"
        if isinstance(kinds.get(problem), Optimum):
            sizes = [g.abs().max().item() for ts in found.values() for g in ts.values()]
            left = max(sizes, default=0.0)
            near(left, 0.0, 10 * SETTLED, scale=1.0, why=LEFT, what=what)
        else:
            assert_same_gradients(found, expected[problem], bound, what, why)


# Optima.


def test_the_drawn_graphs_are_what_they_should_be() -> None:
    facts = [draw_nested(seed, lambda rng: Optimum())[2] for seed in range(400)]
    assert sum(f.nested for f in facts) >= len(facts) / 3
    assert sum(f.third_derivatives for f in facts) >= 0.45 * len(facts)
    assert sum(f.bottom_reads_top for f in facts) >= 50
    assert {f.levels for f in facts} == {2, 3, 4, 5}


def test_implicit_on_random_graphs() -> None:
    """Without five levels of which four or more follow one another, which take half the time."""
    _implicit(range(FAST), lambda facts: facts.levels < 5 or facts.depth < 3)


@pytest.mark.slow
def test_implicit_on_the_deepest_random_graphs() -> None:
    _implicit(range(FAST), lambda facts: facts.levels == 5 and facts.depth >= 3)


@pytest.mark.slow
@pytest.mark.parametrize("first", [FAST, *range(50, 800, 50)])
def test_implicit_on_many_random_graphs(first: int) -> None:
    _implicit(range(first, first - first % 50 + 50), lambda facts: True)


def _implicit(seeds: range, wanted: Callable[[Facts], bool]) -> None:
    """The wanted graphs, of which two thirds or more have strict minima to be checked."""
    drawn = checked = 0
    for seed in seeds:
        nodes, kinds, facts = draw_nested(seed, lambda rng: Optimum(), method_of=implicit)
        if not wanted(facts):
            continue
        drawn += 1
        try:
            settle(nodes, kinds)
        except AssertionError:  # there is no optimum nearby
            continue
        oracle = Nested(nodes, kinds)
        expected = hypergradients(oracle, nodes)
        if strict(oracle):
            check(nodes, kinds, expected, 1e-13 / CURVATURE, f"graph {seed}", SOLVED)
            checked += 1
    assert checked >= 2 / 3 * drawn > 0


# Steps.


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(first, marks=pytest.mark.slow if first >= BLOCK else ())
        for first in range(0, 200, BLOCK)
    ],
)
def test_unrolled_on_random_graphs(first: int) -> None:
    """K = 1, 2, 3 at every level, against plain autograd through the whole program."""
    for seed in range(first, first + BLOCK):
        nodes, kinds, _ = draw_nested(seed, draw_steps, method_of=steps)
        check(nodes, kinds, hypergradients(Nested(nodes, kinds), nodes), UNROLLED, f"graph {seed}")


@pytest.mark.parametrize(
    "seed", [pytest.param(s, marks=() if s in (1, 3) else pytest.mark.slow) for s in range(12)]
)
def test_recomputing_changes_nothing(seed: int) -> None:
    def recomputed(kind: Any) -> mlopt.AbstractHypergradient:
        return Unrolled(kind.k, recompute=True)

    nodes, kinds, _ = draw_nested(seed, lambda rng: Steps(rng.choice([2, 3, 5])),
                                  method_of=recomputed, levels=3)  # fmt: skip
    check(nodes, kinds, hypergradients(Nested(nodes, kinds), nodes), UNROLLED, f"graph {seed}")


# What is displaced.


def chain(method: Any, quartic: float, lr: float = 0.3) -> tuple[list[Any], dict[str, Any]]:
    """The top reads a middle that steps ahead, and a bottom that follows the middle."""
    W, M, A = (
        mlopt.Variable(torch.nn.Parameter(torch.tensor([x], dtype=torch.float64)), n)
        for n, x in (("w", 0.4), ("m", 0.7), ("a", 0.5))
    )

    @mlopt.problem(over=W, given=[M], hypergrad=method)
    def bottom(w, m):
        return ((w - m) ** 2 / 2 + quartic * (w - 2 * m) ** 4).sum()

    @mlopt.problem(over=M, given=[W, A], hypergrad=OneStep(lr=lr))
    def middle(m, w, a):
        return (m**2 / 2 + w * m - a * m * w).sum()

    @mlopt.problem(over=A, given=[W, M])
    def top(a, w, m):
        return (w**2 + m * a + a**2 * w).sum()

    nodes = [bottom, middle, top]
    kinds = {bottom: Optimum(), middle: Steps(1, lr)}
    settle(nodes, kinds)
    return nodes, kinds


def error(method: Any, quartic: float, lr: float = 0.3) -> float:
    nodes, kinds = chain(method, quartic, lr)
    top = nodes[-1]
    found = mlopt.Engine(nodes).hypergradient(top)
    expected = Nested(nodes, kinds).hypergradient(top)
    (a,) = expected
    return relative_error(found[a][""], expected[a][""])


def test_an_optimum_follows_what_is_displaced() -> None:
    """Exactly where it is linear in what it follows; else to first order in the displacement."""
    method = Implicit(Dense())
    exact(error(method, quartic=0.0), 0.0, sweep_rounding(3), scale=1.0)
    # A quartic bottom: one Newton step is not the whole way to its optimum, and what is lost is of
    # second order in the step that displaces it.
    lost = [error(method, 0.05, lr=lr) for lr in (0.3, 0.03, 0.003)]
    for found, stated in zip(lost, (2.1e-2, 6.1e-4, 6.2e-6), strict=True):
        near(found, stated, 0.05, why="two digits of docs/mathematics.md")
    assert 50 < lost[1] / lost[2] < 200
    # not following at all would lose the first order
    assert error(Frozen(), 0.0) > 0.05


def test_a_constant_optimum_follows_in_value() -> None:
    nodes, kinds = chain(StopGradient(Implicit(Dense())), 0.0)
    bottom, _, top = nodes
    found = mlopt.Engine(nodes).hypergradient(top)
    expected = Nested(nodes, {**kinds, bottom: Stopped(Optimum())}).hypergradient(top)
    assert_same_gradients(found, expected, sweep_rounding(3), "stopped")


@pytest.mark.parametrize("product", [mlopt.Central(1e-3), mlopt.OneSided(1e-6)])
def test_differences_follow_as_well(product: Any) -> None:
    """A middle product by differences re-solves the bottom at each displaced value."""
    nodes, kinds = chain(Implicit(Dense(), product=product), 0.0)
    nodes[1].hypergrad = OneStep(0.3, product)
    top = nodes[-1]
    found = mlopt.Engine(nodes).hypergradient(top)
    expected = Nested(nodes, kinds).hypergradient(top)
    why = "radius^2 / 6 or radius / 2 of derivatives that grow at most tenfold with each order"
    assert_same_gradients(found, expected, 2 * 100 * 1e-6 / 2, str(product), why)


# Every other method at both lower levels, against the exact one that it approximates.


def trilevel(method: Any) -> tuple[list[Any], Any, Any]:
    W, M, A = (
        mlopt.Variable(torch.nn.Parameter(torch.tensor(x, dtype=torch.float64)), n)
        for n, x in (("w", [0.4, -0.3]), ("m", [0.7, 0.2]), ("a", [0.5, 1.1]))
    )

    def sgd(v: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(v.parameters(), lr=0.3)

    @mlopt.problem(over=W, given=[M, A], optimizer=sgd(W), hypergrad=method)
    def low(w, m, a):
        return (torch.cosh(w - m) + w**2 * torch.sin(a)).sum() + 2 * (w**2).sum()

    @mlopt.problem(over=M, given=[W, A], optimizer=sgd(M), hypergrad=method)
    def middle(m, w, a):
        return (torch.cosh(m) + m * torch.sin(w) * a).sum() + 2 * (m**2).sum()

    @mlopt.problem(over=A, given=[W, M])
    def top(a, w, m):
        return (a * w * m).sum() + (a**2).sum()

    return [low, middle, top], top, A


def nested_gradient(method: Any, seed: int = 0) -> torch.Tensor:
    nodes, top, A = trilevel(method)
    return mlopt.Engine(nodes, seed=seed).hypergradient(top)[A][""]


ROUNDING = sweep_rounding(2)
#: With each order the derivatives along a direction of length 1 grow at most tenfold.
CENTRAL = (3 * 10**2 * 1e-3**2 / 6, "radius^2 / 6 of the third derivative, in three products")
ONE_SIDED = (3 * 10 * 1e-5 / 2, "radius / 2 of the second derivative, in three products")


@pytest.mark.parametrize(
    ("method", "exactly", "bound", "why"),
    [
        (OneStep(), Unrolled(1), ROUNDING, ""),
        (OneStep(0.3), Unrolled(1), ROUNDING, ""),
        (mlopt.Sama(mlopt.Exact()), Unrolled(1), ROUNDING, ""),
        (mlopt.Sama(mlopt.Central(1e-3)), Unrolled(1), *CENTRAL),
        (OneStep(product=mlopt.Central(1e-3)), Unrolled(1), *CENTRAL),
        (OneStep(product=mlopt.OneSided(1e-5)), Unrolled(1), *ONE_SIDED),
        (Implicit(CG(10, 1e-12)), Implicit(Dense()), 1e-10, "CG stops at 1e-12, at each level"),
        (Implicit(mlopt.Neumann(30, 0.18)), Implicit(Dense()), 1e-9, "0.5^30 of the series"),
        (Implicit(mlopt.Nystrom(2, damping=1e-9)), Implicit(Dense()), 1e-7, "its damping, nested"),
        (Implicit(Dense(), mlopt.Central(1e-3)), Implicit(Dense()), *CENTRAL),
    ],
    ids=str,
)
def test_nested_with_every_method(method: Any, exactly: Any, bound: float, why: str) -> None:
    found, expected = nested_gradient(method), nested_gradient(exactly)
    agree(found, expected, bound, why)
    assert relative_error(nested_gradient(StopGradient(exactly)), expected) > 1e-2


def test_nested_zeroth_order_is_right_on_average() -> None:
    method = mlopt.ZerothOrder(OneStep(lr=0.3), samples=4)
    nodes, top, A = trilevel(method)
    engine, draws = mlopt.Engine(nodes), []
    count = 24
    for _ in range(count):
        draws.append(engine.hypergradient(top)[A][""])
        engine.steps += 1  # draws anew
    drawn = torch.stack(draws)
    expected = nested_gradient(OneStep(lr=0.3))
    spread = (drawn.std(0).norm() / count**0.5).item()
    near(
        drawn.mean(0), expected, 5 * spread + 1e-4, scale=1.0, why="five standard errors; radius^2"
    )
    # the response is seen, not the direct term alone
    direct = nested_gradient(StopGradient(OneStep(lr=0.3)))
    assert (drawn.mean(0) - expected).norm() < 0.5 * (direct - expected).norm()


@pytest.mark.parametrize("alternate", [False, True])
def test_a_stateful_signal_of_nested_levels_moves_on(alternate: bool) -> None:
    """Once a step, also where its problem's turn is followed by early commits."""
    W, M, A = (
        mlopt.Variable(torch.nn.Parameter(torch.ones(1, dtype=torch.float64)), n) for n in "wma"
    )

    class Count(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("n", torch.zeros((), dtype=torch.float64))

    state = Count()

    def sgd(v: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(v.parameters(), lr=0.01)

    @mlopt.problem(over=W, given=[M], optimizer=sgd(W), hypergrad=OneStep())
    def low(w, m):
        return ((w - m) ** 2).sum()

    @mlopt.problem(over=M, given=[W, A], optimizer=sgd(M), hypergrad=OneStep())
    def middle(m, w, a):
        return (m * w * a).sum() + (m**2).sum()

    @mlopt.signal(given=[M, A], state=state)
    def seen(m, a):
        state.n += 1
        return m * a

    @mlopt.problem(over=A, given=[W, seen], optimizer=sgd(A))
    def top(a, w, seen):
        return (a * w * seen).sum() + (a**2).sum()

    schedule = mlopt.Alternate((top, 1), (middle, 1), (low, 2)) if alternate else None
    engine = mlopt.Engine([low, middle, seen, top], schedule=schedule)
    for step in range(1, 4):
        engine.step()
        assert state.n == step

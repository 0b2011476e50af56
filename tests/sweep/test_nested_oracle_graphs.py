"""The oracle for nested levels on random graphs: by finite differences, and against wrong ones."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest
import torch
from compare import exact, near
from nested_graphs import Facts, draw_nested
from nested_oracle import SETTLED, Fixed, Nested, Optimum, Steps, settle
from optimizer_steps import numerical_derivative
from oracles import sweep_rounding
from sweep.oracle_gradient import as_function, error, hypergradient
from torch import Tensor

import mlopt

# Random graphs.

DRAWN = range(200)


def any_optimum(rng: Any) -> Any:
    return Optimum()


def any_steps(rng: Any) -> Any:
    return rng.choice([Steps(1, lr=0.3), Steps(2, lr=0.2), Steps(), Steps(2)])


def any_kind(rng: Any) -> Any:
    return rng.choice([Optimum(), Optimum(), Steps(1, lr=0.3), Steps(), Fixed()])


@cache
def settled(seed: int, kind_of: Any) -> tuple[list[Any], dict[Any, Any], Facts]:
    """A graph where its optima are, which no oracle moves."""
    drawn = draw_nested(seed, kind_of)
    settle(*drawn[:2])
    return drawn


@pytest.mark.parametrize("kind_of", [any_optimum, any_steps, any_kind])
@pytest.mark.parametrize(
    "seeds", [range(8), pytest.param(range(8, 150), marks=pytest.mark.slow)], ids=str
)
def test_random_graphs_by_finite_differences(kind_of: Any, seeds: range) -> None:
    """At displaced points nothing is taken from the standing ones: every optimum is re-solved."""
    checked: Counter[str] = Counter()
    for seed in seeds:
        nodes, kinds, facts = draw_nested(seed, kind_of)
        if facts.stops:
            continue  # a stopped read hides from the gradient what finite differences see
        if facts.levels > 4 or facts.depth > 3 or (facts.levels > 3 and kind_of is any_kind):
            continue  # minutes
        nodes, kinds, facts = settled(seed, kind_of)
        value, x = as_function(nodes, kinds)
        expected = numerical_derivative(value, x).flatten()
        why = "differences of radius 1e-5: 5,000 roundings of the value / radius"
        near(hypergradient(nodes, kinds), expected, 1e-7, why=why, what=f"{seed} {facts}")
        checked["graphs"] += 1
        checked["nested"] += facts.nested
    assert checked["graphs"] >= len(seeds) / 4, checked
    assert checked["nested"] >= len(seeds) / 10, checked


class Trusting(Nested):
    """Takes standing values for solutions, whatever residual a wrong gradient leaves there."""

    def _gradient(self, problem: Any, w: Any, scope: Any, order: int) -> Any:
        w, gradient = super()._gradient(problem, w, scope, order)
        return w, {k: None if g is None else g - g.detach() for k, g in gradient.items()}

    def slope(self, *args: Any) -> Any:
        gradient, hessian = super().slope(*args)
        return 0 * gradient, hessian


class Unresponsive(Trusting):
    """Wrong: a lower solution does not follow those between it and the evaluated problem."""

    def _gradient(self, problem: Any, w: Any, scope: Any, order: int) -> Any:
        held = self.problems[: self.problems.index(scope.problem)]
        return super()._gradient(problem, w, Unmoved(scope, held), order)


class Shortsighted(Trusting):
    """Wrong: in the eyes of a middle problem, the lower solutions do not follow it."""

    def _gradient(self, problem: Any, w: Any, scope: Any, order: int) -> Any:
        inside = hasattr(scope.above, "order")  # of another evaluation
        return super()._gradient(
            problem, w, Unmoved(scope, [scope.problem] if inside else []), order
        )


class Unmoved:
    """A scope in which some problems are constants to those below them."""

    def __init__(self, scope: Any, held: list[Any]) -> None:
        self.scope, self.held = scope, held
        self.order, self.home = scope.order, scope.home

    def point(self, problem: Any) -> Any:
        point = self.scope.point(problem)
        return {k: t.detach() for k, t in point.items()} if problem in self.held else point


class Linear(Trusting):
    """Wrong: a lower optimum responds by its first derivative alone, inside of others too."""

    def _optimum(self, problem: Any, scope: Any) -> Any:
        seen: Any = Copied(scope)
        out = super()._optimum(problem, seen)
        for key, t in out.items() if seen.leaves else ():
            out[key] = t.detach()
            for i, unit in enumerate(torch.eye(t.numel(), dtype=t.dtype)):
                row = torch.autograd.grad(
                    t.flatten()[i], list(seen.leaves.values()), retain_graph=True, allow_unused=True
                )
                for g, x in zip(row, seen.read.values(), strict=True):
                    if g is not None:
                        out[key] = out[key] + unit.view_as(t) * (g * (x - x.detach())).sum()
        return out


class Copied:
    """A scope of which first derivatives are asked for, its values leaves."""

    def __init__(self, scope: Any) -> None:
        self.scope, self.order, self.home = scope, 1, scope.home
        self.read: dict[Any, Tensor] = {}
        self.leaves: dict[Any, Tensor] = {}

    def point(self, problem: Any) -> Any:
        for key, t in (point := self.scope.point(problem)).items():
            if key not in self.leaves:
                self.read[key], self.leaves[key] = t, t.detach().clone().requires_grad_()
        return {key: self.leaves[key] for key in point}


@pytest.mark.parametrize(
    "seeds", [range(12), pytest.param(range(12, 250), marks=pytest.mark.slow)], ids=str
)
def test_the_graphs_tell_right_from_wrong(seeds: range) -> None:
    """An error that nested levels invite shows in most graphs where it could, and only there."""
    count: Counter[str] = Counter()
    for seed in seeds:
        nodes, kinds, facts = settled(seed, any_optimum)
        right = hypergradient(nodes, kinds)
        unresponsive, shortsighted, linear = (
            error(hypergradient(nodes, kinds, wrong), right)
            for wrong in (Unresponsive, Shortsighted, Linear)
        )
        count["nested"] += facts.nested
        count["unresponsive"] += facts.nested and unresponsive > 1e-5
        count["shortsighted"] += facts.nested and shortsighted > 1e-5
        if facts.nested and facts.third_derivatives:
            count["curved"] += 1
            count["linear"] += linear > 1e-5
        if facts.problems == 2:
            exact([unresponsive, shortsighted], [0.0, 0.0], sweep_rounding(1), scale=1.0)
        if facts.problems == 2 or not facts.third_derivatives:
            # an optimum found again within `SETTLED`, times an inverse curvature of a hundred
            exact(linear, 0.0, 100 * SETTLED, scale=1.0, what=f"{seed}")
    assert count["nested"] >= len(seeds) / 3, count
    assert count["curved"] >= len(seeds) / 6, count
    # the top need not read a solution that follows another one that it reads
    assert count["unresponsive"] >= 0.7 * count["nested"], count
    assert count["shortsighted"] >= 0.9 * count["nested"], count
    assert count["linear"] >= 0.85 * count["curved"], count


def test_what_is_drawn() -> None:
    count: Counter[str] = Counter()
    for seed in DRAWN:
        _, kinds, facts = draw_nested(seed, any_optimum)
        assert len(kinds) == facts.problems - 1
        count["nested"] += facts.nested
        count["curved and nested"] += facts.nested and facts.third_derivatives
        count["three deep"] += facts.depth >= 3
        count["signals"] += facts.signals > 0
        count["signals across"] += facts.signals_across > 0
        count["stops"] += facts.stops > 0
        count["bottom reads top"] += facts.bottom_reads_top
        count[f"{facts.levels} levels"] += 1
    assert count["nested"] >= len(DRAWN) / 3, count
    for name in ("curved and nested", "three deep", "signals across", "stops"):
        assert count[name] >= 20, (name, count)
    for name in ("2 levels", "3 levels", "4 levels", "bottom reads top", "signals"):
        assert count[name] >= 20, (name, count)
    assert count["5 levels"] >= 5, count


def test_the_same_seed_draws_the_same_graph() -> None:
    first, _, facts = draw_nested(3, any_optimum)
    second, _, same = draw_nested(3, any_optimum)
    assert facts == same
    for p, q in zip(first, second, strict=True):
        if isinstance(p, mlopt.Problem):
            assert all(torch.equal(v.tensor, u.tensor) for v, u in zip(p.over, q.over, strict=True))

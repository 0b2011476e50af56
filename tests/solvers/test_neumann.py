"""Neumann against the partial sum by matrix powers, and every way in which it diverges."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from compare import exact, rounding
from hypothesis import given, settings
from hypothesis import strategies as st
from solvers.systems import (
    residual_rounding,
    solve_rounding,
    solved,
    symmetric,
    true_residual,
    vector,
)

from mlopt._errors import ConvergenceError, GraphError
from mlopt.solvers import Neumann


def partial_sum(a: np.ndarray, b: np.ndarray, scale: float, steps: int) -> np.ndarray:
    """By eigenvalues and the closed form of the geometric series; none is zero."""
    values, vectors = np.linalg.eigh(a)
    return vectors @ ((1 - (1 - scale * values) ** (steps + 1)) / values * (vectors.T @ b))


@pytest.mark.parametrize("steps", [0, 1, 2, 7, 50])
def test_partial_sum(steps: int, device) -> None:
    a, b = symmetric(np.linspace(0.5, 3.5, 8)), vector(8)
    found, solution = solved(Neumann(steps, scale=0.4), a, b, device)
    exact(found, partial_sum(a, b, 0.4, steps), rounding(8 * (steps + 4), condition=7))
    assert solution.products == steps


def test_converges_to_the_solution() -> None:
    a, b = symmetric(np.linspace(1, 3, 8)), vector(8)
    found, solution = solved(Neumann(200, scale=0.5), a, b)
    exact(found, np.linalg.solve(a, b), solve_rounding(a))  # 0.5^200 of the series is left out
    assert solution.converged
    assert not solved(Neumann(3, scale=0.5), a, b)[1].converged


@given(size=st.integers(1, 10), steps=st.integers(0, 30), seed=st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_residual_is_that_of_one_step_before(size, steps, seed) -> None:
    a = symmetric(np.random.default_rng(seed).uniform(0.05, 1.9, size), seed)
    b = vector(size, seed + 1)
    found, solution = solved(Neumann(steps, scale=1.0), a, b)
    slack = residual_rounding(a, found, b, steps + 1)
    assert true_residual(a, found, b) <= solution.residual + slack
    if steps:
        before, _ = solved(Neumann(steps - 1, scale=1.0), a, b)
        exact(solution.residual, true_residual(a, before, b), slack, scale=1.0)


def test_scale_is_estimated_on_the_scale_of_the_curvature(device) -> None:
    for unit in (1e-8, 1.0, 1e8):
        a, b = unit * symmetric(np.linspace(1, 5, 12)), vector(12)
        solver = Neumann(steps=15)
        found, solution = solved(solver, a, b, device)
        assert solution.products == 15 + 10 == solver.most_products(12)
        # |A v| / |v| over ten power iterations, written down again
        v = np.linalg.matrix_power(a / unit, 9) @ b
        estimate = unit * np.linalg.norm(a / unit @ v) / np.linalg.norm(v)
        assert 0.8 * 5 * unit < estimate <= 5 * unit
        # nine products and fifteen, and the condition is five
        exact(found, partial_sum(a, b, 1 / estimate, 15), rounding(12 * (9 + 15), condition=5))


def test_divergent_scale_raises_and_its_advice_converges() -> None:
    """Each advice is below the scale before, and not far below one over the largest eigenvalue."""
    a, b = symmetric([1.0, 2.0, 10.0]), vector(3)
    scale = 0.21
    advice = r"lower: the Neumann series diverges with scale=0\.\d+: .*Take scale=(0\.\d+) or less"
    while scale > 0.2:
        with pytest.raises(ConvergenceError, match=advice) as caught:
            solved(Neumann(500, scale=scale), a, b)
        found = re.search(advice, str(caught.value))
        assert found is not None
        assert 0.0999 <= float(found[1]) <= scale / 2 + 1e-3
        scale = float(found[1])
    # 0.9^500 of the series is left out: nothing
    expected = np.linalg.solve(a, b)
    exact(solved(Neumann(500, scale=scale), a, b)[0], expected, 10 * solve_rounding(a))


def test_divergence_is_found_at_the_first_term_that_grows() -> None:
    calls = 0

    def operator(v):
        nonlocal calls
        calls += 1
        return {k: 3.0 * t for k, t in v.items()}

    with pytest.raises(ConvergenceError, match="Take scale=0.333 or less"):
        Neumann(20, scale=1.0).solve(operator, {"x": torch.ones(2)})
    assert calls == 1


def test_just_within_the_limit_does_not_raise() -> None:
    a, b = symmetric([1.0, 2.0]), vector(2)
    found, _ = solved(Neumann(40, scale=0.999), a, b)
    # terms of both signs, forty times their sum
    exact(found, partial_sum(a, b, 0.999, 40), rounding(2 * 41, condition=40))


def test_flat_directions_do_not_raise() -> None:
    """Their terms stay as long as they are, give or take the rounding."""
    b = vector(50)
    found, solution = solved(Neumann(100, scale=0.5), symmetric([0.0] * 48 + [1.0, 2.0]), b)
    assert np.isfinite(found).all()
    assert not solution.converged


def test_negative_curvature_raises_whatever_the_scale() -> None:
    for solver in (Neumann(20, scale=1e-3), Neumann(20)):
        with pytest.raises(ConvergenceError, match="negative along a term.*damping"):
            solved(solver, -np.eye(3), vector(3))


def test_zero_operator_without_a_scale_raises() -> None:
    with pytest.raises(ConvergenceError, match="lower: the curvature is zero"):
        solved(Neumann(), np.zeros((3, 3)), vector(3))


def test_series_that_ends_is_not_carried_on() -> None:
    b = vector(4)
    found, solution = solved(Neumann(20, scale=0.5), 2 * np.eye(4), b)
    np.testing.assert_array_equal(found, b / 2)
    assert (solution.products, solution.residual, solution.converged) == (1, 0.0, True)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"steps": -1}, "steps=-1.*at least 0"),
        ({"steps": 1.5}, "steps=1.5"),
        ({"scale": 0.0}, "scale=0.0.*positive"),
        ({"scale": math.inf}, "scale=inf"),
        ({"scale": math.nan}, "scale=nan"),
    ],
)
def test_options_are_checked(options, match) -> None:
    with pytest.raises(GraphError, match=match):
        Neumann(**options)

"""CG against numpy, the bound of its theory, and every way in which it may stop."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from compare import exact, near, rounding
from hypothesis import given, settings
from hypothesis import strategies as st
from solvers.systems import (
    Matrix,
    residual_rounding,
    solve_rounding,
    solved,
    symmetric,
    true_residual,
    vector,
)

from mlopt._errors import ConvergenceError, ConvergenceWarning, GraphError
from mlopt.solvers import CG

KAPPA = 5.0


@pytest.fixture(scope="module")
def pinned() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Condition number 5, 20 dimensions; A, b and x."""
    a = symmetric(np.linspace(1.0, KAPPA, 20), seed=7)
    x = vector(20, seed=8)
    return a, a @ x, x


def energy(a: np.ndarray, error: np.ndarray) -> float:
    return math.sqrt(error @ a @ error)


def test_error_is_within_the_bound_of_theory_at_every_step(pinned, device) -> None:
    a, b, x = pinned
    rate = (math.sqrt(KAPPA) - 1) / (math.sqrt(KAPPA) + 1)
    start = energy(a, x)
    before = start
    for steps in range(1, 41):
        found, solution = solved(CG(max_steps=steps, tol=0), a, b, device)
        error = energy(a, found - x)
        slack = solve_rounding(a) * start
        assert error <= 2 * rate**steps * start + slack, steps
        assert error <= before + slack, steps  # it never rises in this norm
        if steps < 15:
            assert solution.products == steps
            assert not solution.converged
        before = error
    exact(found, x, solve_rounding(a))
    assert solution.converged


def test_each_step_is_the_best_in_its_krylov_space(pinned) -> None:
    """The defining property, computed by a dense least-squares problem in the norm of A."""
    a, b, x = pinned
    root = np.linalg.cholesky(a).T
    for steps in (1, 2, 3, 5, 8):
        krylov = np.stack([np.linalg.matrix_power(a, i) @ b for i in range(steps)], 1)
        basis, _ = np.linalg.qr(krylov)
        best = basis @ np.linalg.lstsq(root @ basis, root @ x, rcond=None)[0]
        found, _ = solved(CG(max_steps=steps, tol=0), a, b)
        bound = rounding(4 * 20, float(np.linalg.cond(krylov)))
        exact(found, best, bound, what=f"{steps} steps")


def test_identity_returns_b_after_one_product(device) -> None:
    b = vector(500)
    found, solution = solved(CG(), np.eye(500), b, device)
    np.testing.assert_array_equal(found, b)
    assert (solution.products, solution.residual, solution.converged) == (1, 0.0, True)


def test_two_eigenvalues_take_two_products() -> None:
    a = symmetric([1.0] * 4 + [10.0] * 4)
    b = vector(8)
    found, solution = solved(CG(tol=1e-12), a, b)
    assert solution.products == 2
    exact(found, np.linalg.solve(a, b), solve_rounding(a))


def test_truncation_is_silent_and_said_in_the_result() -> None:
    a = symmetric(np.geomspace(1, 100, 30))
    b = vector(30)
    found, solution = solved(CG(max_steps=4), a, b)
    assert solution.products == 4
    assert not solution.converged
    assert solution.residual > 0.01
    truth = true_residual(a, found, b)
    exact(solution.residual, truth, residual_rounding(a, found, b, 4) / truth)


@given(
    size=st.integers(1, 12),
    spread=st.floats(0, 3),
    steps=st.integers(1, 30),
    tol=st.sampled_from([0.0, 1e-10, 1e-6, 1e-2, 0.5]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=80, deadline=None)
def test_reported_residual_is_the_true_one(size, spread, steps, tol, seed) -> None:
    a = symmetric(10 ** (spread * np.random.default_rng(seed).uniform(size=size)), seed)
    b = vector(size, seed + 1)
    found, solution = solved(CG(max_steps=steps, tol=tol), a, b)
    truth = true_residual(a, found, b)
    slack = solve_rounding(a) * (steps + 1)
    exact(solution.residual, truth, slack, scale=1.0)
    assert solution.converged == (solution.residual <= max(tol, np.finfo(float).eps))
    if solution.converged:
        assert truth <= tol + slack
    else:
        assert solution.products == steps


@given(
    exponent=st.integers(-90, 90),
    stretch=st.integers(-30, 30),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_scaling_b_and_a_scales_x(exponent, stretch, seed) -> None:
    """Squares of the smallest of these numbers are zero, of the largest infinite, in float32."""
    a, b = symmetric(np.linspace(1, 4, 6), seed), vector(6, seed)
    x, first = solved(CG(), a, b)
    scaled, second = solved(CG(), a * 10.0**stretch, b * 10.0**exponent)
    exact(scaled * 10.0 ** (stretch - exponent), x, 2 * solve_rounding(a))
    assert second.products == first.products


def test_tiny_and_huge_gradients_in_float32(device) -> None:
    a = symmetric(np.linspace(1, 4, 6))
    for size in (1e-30, 1e30):
        operator = Matrix(a, device, dtype=torch.float32)
        b = vector(6)
        solution = CG(tol=1e-5).solve(operator, operator.cut(b * size))
        x = solution.value["x"]
        assert x.dtype is torch.float32
        # the condition is four
        near(x.double() / size, np.linalg.solve(a, b), 4 * 1e-5, why="tol times the condition")
        assert solution.converged


def test_tol_below_the_rounding_counts_as_the_rounding(device) -> None:
    operator = Matrix(symmetric(np.linspace(1, 4, 30)), device, dtype=torch.float32)
    solution = CG(max_steps=1000, tol=1e-12).solve(operator, operator.cut(vector(30)))
    assert solution.converged
    assert solution.products < 30
    assert solution.residual <= np.finfo(np.float32).eps


# --- what is not positive definite ---


def test_negative_curvature_at_the_first_step_gives_zero(device) -> None:
    with pytest.warns(ConvergenceWarning, match=r"^lower: CG met negative curvature.*damping"):
        found, solution = solved(CG(), -np.eye(3), vector(3), device)
    np.testing.assert_array_equal(found, 0.0)
    assert (solution.products, solution.residual, solution.converged) == (1, 1.0, False)


def test_negative_curvature_later_gives_the_best_iterate() -> None:
    # b is nearly all in the positive part, which the first step solves for the most part.
    a, b = np.diag([1.0, 1.1, -1.0]), np.array([1.0, 1.0, 1e-3])
    with pytest.warns(ConvergenceWarning, match="negative curvature.*Gauss-Newton.*inner steps"):
        found, solution = solved(CG(max_steps=10, tol=1e-9), a, b)
    assert not solution.converged
    assert solution.products >= 2
    exact(solution.residual, true_residual(a, found, b), rounding(4 * 3 * 10), scale=1.0)
    assert solution.residual < 0.1


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_zero_curvature_is_judged_on_the_scale_of_a(scale: float) -> None:
    a = scale * np.diag([1.0, 0.0])
    with pytest.warns(ConvergenceWarning, match="met no curvature"):
        found, solution = solved(CG(max_steps=10), a, np.array([1.0, 1e-3]))
    # The first step all but solves for the first number, and turns to the flat one.
    exact(found[0] * scale, 1 + 1e-6, rounding(20))  # |b|^2 / (b A b)
    exact(solution.residual, 1e-3, rounding(20))
    assert not solution.converged


def test_small_but_positive_curvature_is_no_reason_to_stop() -> None:
    a, b = symmetric([1e-8, 1.0, 2.0]), vector(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, solution = solved(CG(max_steps=10, tol=1e-6), a, b)
    assert solution.converged
    exact(found, np.linalg.solve(a, b), solve_rounding(a))


def test_singular_but_solvable_system_is_solved() -> None:
    a = symmetric([0.0, 0.0, 1.0, 2.0, 3.0])
    b = a @ vector(5)
    found, solution = solved(CG(tol=1e-10), a, b)
    assert solution.converged
    near(found, np.linalg.pinv(a) @ b, 3 * 1e-10, why="tol times the condition of what is not zero")


def test_zero_operator_raises(device) -> None:
    with pytest.raises(ConvergenceError, match="lower: the curvature is zero.*damping"):
        solved(CG(), np.zeros((3, 3)), vector(3), device)


def test_divergence_gives_the_best_iterate() -> None:
    """An operator that is not symmetric, with positive curvature in all directions."""
    a = np.eye(6) + 1e4 * np.triu(np.ones((6, 6)), 1)
    a = a - np.tril(a.T, -1)
    assert np.linalg.eigvalsh(a + a.T).min() > 0
    b = vector(6)
    with pytest.warns(ConvergenceWarning, match="CG diverged.*not symmetric"):
        found, solution = solved(CG(), a, b)
    assert solution.residual <= 1.0
    bound = residual_rounding(a, found, b, solution.products)
    exact(solution.residual, true_residual(a, found, b), bound, scale=1.0)
    assert not solution.converged


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_steps": 0}, "max_steps=0.*at least 1"),
        ({"max_steps": 2.5}, "max_steps=2.5"),
        ({"max_steps": True}, "max_steps=True"),
        ({"tol": -1e-9}, r"tol=-1e-09.*\[0, 1\)"),
        ({"tol": 1.0}, "tol=1.0"),
        ({"tol": math.nan}, "tol=nan"),
    ],
)
def test_options_are_checked(options, match) -> None:
    with pytest.raises(GraphError, match=match):
        CG(**options)

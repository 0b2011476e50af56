"""GMRES against numpy, on matrices that are neither symmetric nor definite."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compare import exact, rounding
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

from mlopt._errors import ConvergenceError, GraphError
from mlopt.solvers import GMRES


def general(size: int, seed: int, condition: float = 10.0) -> np.ndarray:
    """A matrix with random singular vectors, and singular values up to this ratio."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
    return (left * np.geomspace(1, condition, size)) @ right


@given(size=st.integers(1, 12), seed=st.integers(0, 10_000), exponent=st.integers(-20, 20))
@settings(max_examples=60, deadline=None)
def test_equals_numpy_after_as_many_steps_as_there_are_numbers(size, seed, exponent) -> None:
    a, b = general(size, seed) * 10.0**exponent, vector(size, seed + 1)
    found, solution = solved(GMRES(max_steps=50, tol=0.0), a, b)
    exact(found, np.linalg.solve(a, b), 4 * solve_rounding(a))
    assert solution.products <= size
    exact(solution.residual, 0.0, 4 * residual_rounding(a, found, b), scale=1.0)


def test_each_step_has_the_smallest_residual_in_its_krylov_space(device) -> None:
    """The defining property, computed by a dense least-squares problem."""
    a, b = general(10, 3), vector(10, 4)
    before = 1.0
    for steps in (1, 2, 3, 5, 7):
        krylov = np.stack([np.linalg.matrix_power(a, i) @ b for i in range(steps)], 1)
        basis, _ = np.linalg.qr(krylov)
        best = basis @ np.linalg.lstsq(a @ basis, b, rcond=None)[0]
        found, solution = solved(GMRES(max_steps=steps, tol=0.0), a, b, device)
        condition = float(np.linalg.cond(krylov) * np.linalg.cond(a))
        exact(found, best, rounding(4 * 10, condition), what=f"{steps} steps")
        assert solution.products == steps
        assert solution.residual <= before
        assert not solution.converged
        truth = true_residual(a, found, b)
        exact(solution.residual, truth, residual_rounding(a, found, b, steps) / truth)
        before = solution.residual


def test_a_rotation_which_gradients_of_a_zero_sum_game_are() -> None:
    a = np.array([[0.0, 1.0], [-1.0, 0.0]])
    found, solution = solved(GMRES(), a, np.array([1.0, 2.0]))
    exact(found, np.array([-2.0, 1.0]), rounding(40))
    assert solution.converged


def test_few_eigenvalues_take_few_products() -> None:
    a, b = symmetric([-1.0] * 4 + [10.0] * 4), vector(8)
    found, solution = solved(GMRES(tol=1e-12), a, b)
    assert solution.products == 2
    exact(found, np.linalg.solve(a, b), solve_rounding(a))
    found, solution = solved(GMRES(tol=0.0), 3 * np.eye(5), vector(5))
    assert solution.products == 1
    exact(found, vector(5) / 3, rounding(20))


def test_a_singular_matrix_leaves_a_residual_which_is_said() -> None:
    found, solution = solved(GMRES(), np.diag([1.0, 2.0, 0.0]), np.ones(3))
    assert not solution.converged
    exact(solution.residual, 1 / math.sqrt(3), rounding(100))
    assert np.isfinite(found).all()
    with pytest.raises(ConvergenceError, match=r"lower: the curvature is zero.*damping"):
        solved(GMRES(), np.zeros((3, 3)), vector(3))


def test_in_float32(device) -> None:
    a, b = general(6, 9), vector(6)
    operator = Matrix(a, device, dtype=torch.float32)
    solution = GMRES(tol=0.0).solve(operator, operator.cut(b))
    x = solution.value["x"]
    assert x.dtype is torch.float32
    bound = rounding(4 * 4 * 6, float(np.linalg.cond(a)), torch.float32)
    exact(x.double(), np.linalg.solve(a, b), bound)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_steps": 0}, "max_steps=0.*at least 1"),
        ({"max_steps": True}, "max_steps=True"),
        ({"tol": -1e-9}, r"tol=-1e-09.*\[0, 1\)"),
        ({"tol": 1.0}, "tol=1.0"),
    ],
)
def test_options_are_checked(options, match) -> None:
    with pytest.raises(GraphError, match=match):
        GMRES(**options)

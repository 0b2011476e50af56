"""Dense against numpy, and the matrices it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compare import exact, kills
from hypothesis import given, settings
from hypothesis import strategies as st
from solvers.systems import (
    Matrix,
    residual_rounding,
    solve_rounding,
    solved,
    symmetric,
    vector,
)

from mlopt._errors import ConvergenceError, GraphError
from mlopt.solvers import Dense


@given(
    size=st.integers(1, 15),
    seed=st.integers(0, 10_000),
    exponent=st.integers(-20, 20),
    indefinite=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_equals_numpy(size, seed, exponent, indefinite) -> None:
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.1, 10, size) * (rng.choice([-1, 1], size) if indefinite else 1)
    a, b = symmetric(values, seed) * 10.0**exponent, vector(size, seed + 1)
    found, solution = solved(Dense(), a, b)
    exact(found, np.linalg.solve(a, b), solve_rounding(a))
    assert solution.products == size
    assert solution.converged
    exact(solution.residual, 0.0, residual_rounding(a, found, b), scale=1.0)


def test_on_the_device(device) -> None:
    a, b = symmetric(np.linspace(1, 9, 7)), vector(7)
    exact(solved(Dense(), a, b, device)[0], np.linalg.solve(a, b), solve_rounding(a))


def test_a_matrix_that_is_not_symmetric_is_solved_as_it_is() -> None:
    a = symmetric(np.linspace(1, 4, 5)) + np.triu(np.full((5, 5), 0.2), 1)
    b = vector(5)
    found, solution = solved(Dense(), a, b)
    exact(found, np.linalg.solve(a, b), solve_rounding(a))
    kills(np.linalg.solve((a + a.T) / 2, b), np.linalg.solve(a, b), solve_rounding(a))
    assert solution.converged


@pytest.mark.parametrize("values", [[0.0, 1.0, 2.0], [1e-17, 1.0, 2.0], [0.0, 0.0, 0.0]])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_singular_matrix_raises(values, scale) -> None:
    with pytest.raises(ConvergenceError, match="lower: A is singular.*damping"):
        solved(Dense(), scale * symmetric(values), vector(3))


def test_ill_conditioned_matrix_is_solved() -> None:
    a, x = symmetric([1e-9, 1.0, 2.0]), vector(3)
    found, solution = solved(Dense(), a, a @ x)
    kills(2 * x, x, solve_rounding(a))
    exact(found, x, solve_rounding(a))
    assert solution.converged


def test_refuses_what_is_too_large() -> None:
    operator = Matrix(np.eye(4))
    with pytest.raises(GraphError, match=r"inner: Dense\(max_size=3\) got b with 4 .*CG\(\)"):
        Dense(max_size=3).solve(operator, operator.cut(np.ones(4)), "inner")
    assert operator.calls == 0
    assert torch.equal(
        Dense(max_size=4).solve(operator, operator.cut(np.ones(4))).value["x"],
        torch.ones(4, dtype=torch.float64),
    )


def test_options_are_checked() -> None:
    with pytest.raises(GraphError, match="max_size=0.*at least 1"):
        Dense(max_size=0)

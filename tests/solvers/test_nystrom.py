"""Nystrom against damped dense solutions, and the approximation written with pseudo-inverses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compare import exact, kills, near, rounding
from hypothesis import given, settings
from hypothesis import strategies as st
from solvers.systems import (
    Matrix,
    relative,
    solve_rounding,
    solved,
    symmetric,
    true_residual,
    vector,
)

from mlopt._errors import ConvergenceError, ConvergenceWarning, GraphError
from mlopt.solvers import Nystrom


def damped(a: np.ndarray, b: np.ndarray, damping: float) -> np.ndarray:
    return np.linalg.solve(a + damping * np.eye(len(b)), b)


@pytest.mark.parametrize("rank", [15, 40])
@pytest.mark.parametrize("damping", [1e-3, 1e-1, 10.0])
def test_full_rank_is_the_damped_dense_solution(rank: int, damping: float, device) -> None:
    a, b = symmetric(np.geomspace(1e-4, 10, 15)), vector(15)
    found, solution = solved(Nystrom(rank, damping), a, b, device)
    # the core is inverted, whose condition is that of A
    exact(found, damped(a, b, damping), solve_rounding(a))
    assert solution.products == 16
    exact(solution.residual, true_residual(a, found, b), solve_rounding(a), scale=1.0)


def test_rank_of_the_matrix_is_enough(device) -> None:
    a, b = symmetric([0.0] * 36 + [1.0, 2.0, 50.0, 1000.0]), vector(40)
    for rank in (4, 6):
        found, solution = solved(Nystrom(rank, 0.5), a, b, device)
        # eigenvalues of 1 to 1,000 beside a damping of 0.5
        exact(found, damped(a, b, 0.5), rounding(4 * 40, condition=2000))
        assert solution.products == rank + 1
    # ... and one less is not: this test can tell
    assert relative(solved(Nystrom(3, 0.5), a, b)[0], damped(a, b, 0.5)) > 1e-4


def test_low_rank_plus_small_is_close() -> None:
    rng = np.random.default_rng(3)
    a = symmetric(np.concatenate([rng.uniform(0, 1e-4, 45), np.linspace(5, 50, 5)]))
    b = vector(50)
    found, _ = solved(Nystrom(10, 0.1), a, b)
    why = "eigenvalues of 1e-4 that are left out, beside a damping of 0.1, and those that leak in"
    near(found, damped(a, b, 0.1), 2 * 1e-4 / 0.1, why=why)


@given(seed=st.integers(0, 1000), rank=st.integers(1, 8), damping=st.floats(0.05, 5))
@settings(max_examples=40, deadline=None)
def test_the_approximation_written_out(seed, rank, damping) -> None:
    """(A Q)(Q'AQ)^-1(A Q)' for the directions that the operator was really given."""
    size = 8
    a, b = symmetric(np.linspace(0.5, 4, size), seed), vector(size, seed)
    directions = []

    class Recorded(Matrix):
        def __call__(self, v):
            directions.append(v["x"].numpy().copy())
            return super().__call__(v)

    operator = Recorded(a)
    solution = Nystrom(rank, damping, seed).solve(operator, operator.cut(b))
    q = np.stack(directions[:-1], 1)
    exact(q.T @ q, np.eye(rank), rounding(12 * size))
    y = a @ q
    core = q.T @ y
    expected = damped(y @ np.linalg.inv(core) @ y.T, b, damping)
    # the conditions of the core, at most eight, and of what is solved, at most 80
    exact(solution.value["x"], expected, rounding(8 * size, condition=8 * 80))


def test_own_generator(device) -> None:
    a, b = symmetric(np.linspace(1, 9, 30)), vector(30)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, _ = solved(Nystrom(4, seed=1), a, b, device)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    again, _ = solved(Nystrom(4, seed=1), a, b, device)
    other, _ = solved(Nystrom(4, seed=2), a, b, device)
    np.testing.assert_array_equal(first, again)
    assert relative(other, first) > 1e-3


def test_negative_curvature_is_left_out_and_said() -> None:
    a = symmetric([-1.0, 1.0, 2.0, 3.0])
    b = vector(4)
    with pytest.warns(ConvergenceWarning, match="lower: Nystrom met negative curvature, -1, in 1"):
        found, solution = solved(Nystrom(4, 0.1), a, b)
    values, vectors = np.linalg.eigh(a)
    positive = (vectors * values.clip(0)) @ vectors.T
    exact(found, damped(positive, b, 0.1), rounding(8 * 4, condition=3 * 30))
    assert not solution.converged


def test_negative_in_all_directions_or_zero_raises() -> None:
    with pytest.raises(ConvergenceError, match="in 2 of 2 directions and has nothing to work on"):
        solved(Nystrom(2), -np.eye(5), vector(5))
    with pytest.raises(ConvergenceError, match="lower: the curvature is zero"):
        solved(Nystrom(2), np.zeros((5, 5)), vector(5))


def test_low_rank_in_float32_does_not_look_indefinite(device) -> None:
    """Without the shift rounding makes the core indefinite; warnings are errors here."""
    for seed in range(10):
        a = symmetric([0.0] * 55 + [1.0, 3.0, 10.0, 100.0, 1000.0], seed)
        operator = Matrix(a, device, dtype=torch.float32)
        b = vector(60, seed)
        solution = Nystrom(rank=20, damping=1.0, seed=seed).solve(operator, operator.cut(b))
        found = solution.value["x"].cpu().double().numpy()
        expected, bound = damped(a, b, 1.0), rounding(60, condition=1000, dtype=torch.float32)
        kills(2 * expected, expected, bound)
        exact(found, expected, bound)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rank": 0}, "rank=0.*at least 1"),
        ({"damping": 0.0}, "damping=0.0.*positive"),
        ({"damping": math.inf}, "damping=inf"),
        ({"damping": math.nan}, "damping=nan"),
        ({"seed": 2**64}, "seed=18446744073709551616"),
        ({"seed": None}, "seed=None"),
    ],
)
def test_options_are_checked(options, match) -> None:
    with pytest.raises(GraphError, match=match):
        Nystrom(**options)

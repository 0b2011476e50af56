"""The three-level example: exact where it says so, and biased by what its steps leave out."""

import pytest
import torch
from compare import exact, kills, near, rounding
from oracles import relative_error

import mlopt
from examples.gallery.three_levels import Constants, build, closed_form, hypergradient


@pytest.fixture(params=[0, pytest.param(1, marks=pytest.mark.slow)])
def k(request):
    return Constants.draw(4, request.param)


def value(k, x):
    """The top objective at its lower optima."""
    y, z, _ = closed_form(Constants(k.P, k.B, k.C, k.a, k.b, k.c, x))
    return ((y - k.a) ** 2 + (z - k.b) ** 2).sum() / 2 + (x**2).sum() / 10


def steps(k, count, lr):
    """The derivative when both lower levels take `count` gradient steps from their optima."""
    x = k.x.clone().requires_grad_()
    y0, z0, _ = closed_form(k)

    def bottom(y):
        z = z0
        for _ in range(count):
            z = z - lr * (k.P @ z - k.B @ y - k.C @ x)
        return z

    y = y0.clone().requires_grad_()
    for _ in range(count):
        loss = ((y - x) ** 2).sum() / 2 + ((bottom(y) - k.c) ** 2).sum() / 2
        y = y - lr * torch.autograd.grad(loss, y, create_graph=True)[0]
    z = bottom(y)
    top = ((y - k.a) ** 2 + (z - k.b) ** 2).sum() / 2 + (x**2).sum() / 10
    return torch.autograd.grad(top, x)[0]


def test_the_closed_form_is_stationary_and_is_the_derivative(k):
    y, z, gradient = closed_form(k)
    # products with matrices of 4 columns, solved systems of condition 4 and below 10
    bound = rounding(60, condition=4 * 10)
    exact(k.P @ z, k.B @ y + k.C @ k.x, bound)
    M = torch.linalg.inv(k.P) @ k.B
    exact(y - k.x, -M.T @ (z - k.c), bound)
    x = k.x.clone().requires_grad_()
    exact(gradient, torch.autograd.grad(value(k, x), x)[0], bound)


def test_implicit_is_the_closed_form(k):
    found = hypergradient(build(k, mlopt.Implicit(mlopt.CG(tol=1e-12))))
    bound = 1e-12 * 4 * 10 + rounding(60, condition=4 * 10)
    near(found, closed_form(k)[2], bound, why="CG's residual, times the conditions of both levels")


def test_without_the_bottom_level_following_the_middle_one_it_would_be_another(k):
    """What a staged sweep would give: y* as if z stood still under it."""
    y, z, expected = closed_form(k)
    one, M, N = torch.eye(4).double(), *(torch.linalg.solve(k.P, t) for t in (k.B, k.C))
    staged = one.T @ (y - k.a) + (M @ one + N).T @ (z - k.b) + k.x / 5
    kills(staged, expected, 0.025)


def nested(count):
    """Steps in steps of products with matrices of 4 columns, each differentiated twice."""
    return rounding(4 * 20 * (count + 1) ** 2)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_unrolled_is_biased_by_the_steps_that_it_does_not_take(k, count):
    found = hypergradient(build(k, mlopt.Unrolled(count), lr=0.3))
    exact(found, steps(k, count, 0.3), nested(count))
    assert relative_error(found, closed_form(k)[2]) > 0.01


def test_one_step_is_the_first_of_these(k):
    found = hypergradient(build(k, mlopt.OneStep(), lr=0.3))
    exact(found, steps(k, 1, 0.3), nested(1))


def test_frozen_is_the_direct_term(k):
    found = hypergradient(build(k, mlopt.Frozen()))
    exact(found, k.x / 5, rounding(20))  # a square, its sum, a quotient, forth and back


def test_more_work_is_less_bias(k):
    expected = closed_form(k)[2]

    def found(method):
        return hypergradient(build(k, method, lr=0.5))

    # the bottom level contracts by 1 - 0.5 * 0.5, and in Neumann's series by 1 - 0.5 / 2
    left = "what the last steps or terms leave, once for each level"
    near(found(mlopt.Unrolled(15)), expected, 2 * 0.75**15, why=left)
    kills(found(mlopt.Unrolled(3)), expected, 2 * 0.75**15)
    near(found(mlopt.Implicit(mlopt.Neumann(40))), expected, 2 * 0.75**40, why=left)
    kills(found(mlopt.Implicit(mlopt.Neumann(8))), expected, 2 * 0.75**40)

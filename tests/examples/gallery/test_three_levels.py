"""The three-level example: exact where it says so, and biased by what its steps leave out."""

import pytest
import torch
from oracles import relative_error

import mlopt
from examples.gallery.three_levels import Constants, build, closed_form, hypergradient


@pytest.fixture(params=[0, 1])
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
    assert (k.P @ z - k.B @ y - k.C @ k.x).abs().max() < 1e-12
    M = torch.linalg.inv(k.P) @ k.B
    assert (y - k.x + M.T @ (z - k.c)).abs().max() < 1e-12
    x = k.x.clone().requires_grad_()
    assert relative_error(gradient, torch.autograd.grad(value(k, x), x)[0]) < 1e-12


def test_implicit_is_the_closed_form(k):
    found = hypergradient(build(k, mlopt.Implicit(mlopt.CG(tol=1e-12))))
    assert relative_error(found, closed_form(k)[2]) < 1e-8


def test_without_the_bottom_level_following_the_middle_one_it_would_be_another(k):
    """What a staged sweep would give: y* as if z stood still under it."""
    y, z, expected = closed_form(k)
    one, M, N = torch.eye(4).double(), *(torch.linalg.solve(k.P, t) for t in (k.B, k.C))
    staged = one.T @ (y - k.a) + (M @ one + N).T @ (z - k.b) + k.x / 5
    assert relative_error(staged, expected) > 0.05


@pytest.mark.parametrize("count", [1, 2, 5])
def test_unrolled_is_biased_by_the_steps_that_it_does_not_take(k, count):
    found = hypergradient(build(k, mlopt.Unrolled(count), lr=0.3))
    assert relative_error(found, steps(k, count, 0.3)) < 1e-10
    assert relative_error(found, closed_form(k)[2]) > 0.01


def test_one_step_is_the_first_of_these(k):
    found = hypergradient(build(k, mlopt.OneStep(), lr=0.3))
    assert relative_error(found, steps(k, 1, 0.3)) < 1e-10


def test_frozen_is_the_direct_term(k):
    found = hypergradient(build(k, mlopt.Frozen()))
    assert relative_error(found, k.x / 5) < 1e-12


def test_more_work_is_less_bias(k):
    expected = closed_form(k)[2]

    def error(method):
        return relative_error(hypergradient(build(k, method)), expected)

    assert error(mlopt.Unrolled(25)) < 3e-2 < 5e-2 < error(mlopt.Unrolled(5))
    assert error(mlopt.Implicit(mlopt.Neumann(80))) < 1e-6 < error(mlopt.Implicit(mlopt.Neumann(8)))

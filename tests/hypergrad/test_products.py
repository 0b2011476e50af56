"""Mixed products against dense blocks of the Hessian, and where they must give exactly zero."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from case_graphs import module, parameter, tensor
from cases import Recorder
from compare import agree, exact, kills, rounding
from oracles import Composed, assert_same_gradients, relative_error
from torch import Tensor, nn

import mlopt
from mlopt import Central, Exact, OneSided, OneStep

PRODUCTS = [Exact(), Central(1e-3), OneSided(1e-3)]
#: With each order the derivatives along a direction of length 1 grow at most tenfold.
BOUNDS: dict[type, Any] = {
    Exact: (rounding(160, condition=10), ""),
    Central: (10**2 * 1e-3**2 / 6, "radius^2 / 6 of the third derivative"),
    OneSided: (10 * 1e-3 / 2, "radius / 2 of the second derivative"),
}
SGD = torch.optim.SGD


def objective(w: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Smooth, third derivatives in every block."""
    x = torch.tanh(w[:3] * a) + torch.sin(w[1:] * b.sum())
    return (x**2 * a).sum() + (torch.cosh(w[:2] * b) * w[2:]).sum() + (w**4).sum() / 4


def response_of(device: torch.device, product: Any) -> tuple[Any, Any, Any, Any]:
    """The response of a lower problem over w, with a and b as its arguments."""
    W, A, B = (
        mlopt.Variable(parameter(device, s, n), name)
        for s, n, name in ((1, 4, "w"), (2, 3, "a"), (3, 2, "b"))
    )
    recorder = Recorder(OneStep(lr=1.0, product=product))

    @mlopt.problem(over=W, given=[A, B], hypergrad=recorder)
    def lower(w, a, b):
        return objective(w, a, b)

    @mlopt.problem(over=[A, B], given=[W])
    def upper(ab, w):
        return w.sum() * ab[0].sum() + ab[1].sum()

    mlopt.Engine([lower, upper]).hypergradient(upper)
    (response,) = recorder.responses
    return response, W, A, B


def dense(w: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """d2F / da dw and d2F / db dw, row by row."""

    def slope(which: int, at: Tensor) -> Tensor:
        arguments = [w, a, b]
        arguments[which] = at
        arguments[0] = arguments[0].detach().requires_grad_()
        (g,) = torch.autograd.grad(objective(*arguments), arguments[0], create_graph=True)
        return g

    wa = torch.autograd.functional.jacobian(lambda x: slope(1, x), a)
    wb = torch.autograd.functional.jacobian(lambda x: slope(2, x), b)
    return wa.T, wb.T


@pytest.mark.parametrize("product", PRODUCTS, ids=repr)
def test_against_dense_blocks(product: Any, device: torch.device) -> None:
    response, W, A, B = response_of(device, product)
    w, a, b = (v.value.detach() for v in (W, A, B))
    blocks = dict(zip((A, B), dense(w, a, b), strict=True))
    bound, why = BOUNDS[type(product)]
    directions = [tensor(device, 30, 4), *torch.eye(4, dtype=torch.float64, device=device)]
    for u in directions:
        for length in (1e-6, 1.0, 1e6):  # the radius is a length in w, whatever u's
            found = product.mixed(response, {(W, ""): length * u}, [(A, ""), (B, "")])
            for v, block in blocks.items():
                expected = length * (block @ u)
                kills(2 * expected, expected, bound)
                agree(found[v, ""], expected, bound, why, what=v.name)


@pytest.mark.parametrize("product", PRODUCTS, ids=repr)
def test_only_what_is_wanted(product: Any, device: torch.device) -> None:
    response, W, A, B = response_of(device, product)
    found = product.mixed(response, {(W, ""): tensor(device, 30, 4)}, [(B, "")])
    assert set(found) == {(B, "")}


@pytest.mark.parametrize("product", PRODUCTS, ids=repr)
def test_zero_direction_gives_exactly_zero(product: Any, device: torch.device) -> None:
    response, W, A, B = response_of(device, product)
    zero = torch.zeros(4, dtype=torch.float64, device=device)
    found = product.mixed(response, {(W, ""): zero}, [(A, ""), (B, "")])
    assert set(found) == {(A, ""), (B, "")}
    for t in found.values():
        assert torch.equal(t, torch.zeros_like(t))


def test_differences_are_the_formulas_of_their_docstrings(device: torch.device) -> None:
    """To rounding: the displacement is radius / |u|, the base is dF/dr(w), the order is 1 and 2."""
    response, W, A, B = response_of(device, OneSided(0.1))
    w, a, b = (v.value.detach() for v in (W, A, B))
    u = tensor(device, 30, 4)

    def slope(at: Tensor) -> Tensor:
        leaf = a.clone().requires_grad_()
        return torch.autograd.grad(objective(at, leaf, b), leaf)[0]

    e = 0.1 / u.norm()
    one_sided = (slope(w + e * u) - slope(w)) / e
    central = (slope(w + e * u) - slope(w - e * u)) / (2 * e)
    for product, expected in ((OneSided(0.1), one_sided), (Central(0.1), central)):
        found = product.mixed(response, {(W, ""): u}, [(A, "")])[A, ""]
        # rounding of two slopes, whose difference is a tenth of them
        exact(found, expected, rounding(2 * 40, condition=10), what=repr(product))
    limit = dense(w, a, b)[0] @ u
    for kind, order in ((OneSided, 1), (Central, 2)):
        wide, narrow = (
            relative_error(kind(r).mixed(response, {(W, ""): u}, [(A, "")])[A, ""], limit)
            for r in (0.02, 0.01)
        )
        assert 2**order * 0.9 < wide / narrow < 2**order * 1.1


class Net(nn.Module):
    """One layer used, one frozen, one unused, one that the optimizer does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.frozen = nn.Linear(3, 3), nn.Linear(3, 3)
        self.unused, self.unheld = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        hidden = torch.tanh(self.unheld(torch.tanh(self.frozen(x))))
        return torch.tanh(self.used(hidden * a)).sum(-1)


@pytest.mark.parametrize("product", PRODUCTS, ids=repr)
def test_unused_frozen_and_unheld_parameters(product: Any, device: torch.device) -> None:
    net = module(Net(), device, 40)
    net.frozen.requires_grad_(False)
    W, A = mlopt.Variable(net, "w"), mlopt.Variable(parameter(device, 41, 3), "a")
    x = tensor(device, 42, 5, 3)
    held = [p for layer in (net.used, net.frozen, net.unused) for p in layer.parameters()]
    recorder = Recorder(OneStep(product=product))

    @mlopt.problem(over=W, given=[A], optimizer=SGD(held, lr=0.5), hypergrad=recorder)
    def lower(w, a):
        return (w(x, a) ** 2).mean()

    @mlopt.problem(over=A, given=[W], optimizer=SGD(A.parameters(), lr=0.5))
    def upper(a, w):  # reads all of w
        weights = sum((p**2).sum() for layer in (w.unused, w.frozen) for p in (layer.weight,))
        return (w(x, a) ** 3).mean() + (a**2).sum() * weights

    engine = mlopt.Engine([lower, upper])
    oracle = Composed([lower, upper])
    oracle.method = lambda p: OneStep() if p is lower else mlopt.Frozen()
    found = engine.hypergradient(upper)
    bound, why = BOUNDS[type(product)]
    assert_same_gradients(found, oracle.hypergradient(upper), bound, why=why)
    (response,) = recorder.responses
    used = {(W, f"used.{k}") for k in ("weight", "bias")}
    assert set(response.gradient) == used
    assert set(response.value) == used | {(W, f"unused.{k}") for k in ("weight", "bias")}
    # a cotangent on a parameter that F does not use is lost: its look-ahead is a constant
    ones = {k: torch.ones_like(t) for k, t in response.value.items() if k not in used}
    assert recorder.method.pullback(response, ones, [(A, "")]) == {}
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    engine.step()
    moved = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"used.weight", "used.bias"}
    assert all(p.grad is None for n, p in net.named_parameters() if n not in moved)


@pytest.mark.parametrize("product", PRODUCTS, ids=repr)
def test_an_argument_without_mixed_derivative(product: Any, device: torch.device) -> None:
    """F = f(w) + g(a): nothing comes back, and no error or nan does."""
    W = mlopt.Variable(parameter(device, 1, 3), "w")
    A = mlopt.Variable(parameter(device, 2, 3), "a")

    @mlopt.problem(over=W, given=[A], hypergrad=OneStep(lr=0.5, product=product))
    def lower(w, a):
        return (w**3).sum() + torch.sin(a).sum()

    @mlopt.problem(over=A, given=[W])
    def upper(a, w):
        return (w * a).sum()

    found = mlopt.Engine([lower, upper]).hypergradient(upper)[A][""]
    w = W.value.detach()
    exact(found, w - 0.5 * 3 * w**2, rounding(20, condition=10))

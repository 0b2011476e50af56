"""The oracle for nested levels against algebra by hand, finite differences and plain programs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import warmed
from compare import exact, near, rounding
from nested_oracle import Fixed, Nested, Optimum, Steps, Stopped, settle
from optimizer_steps import numerical_derivative, torch_update
from oracles import sweep_rounding
from sweep.oracle_gradient import as_function, hypergradient
from torch import Tensor, nn

import mlopt

#: At most 100 operations on the way to a number by hand, and a condition of ten: sums that cancel,
#: and the division by a curvature.
BY_HAND = rounding(100, condition=10)
DIFFERENCES = "central differences of radius 1e-5: rounding / radius, at most 500 of them"


def scalar(value: float, name: str) -> mlopt.Variable:
    return mlopt.Variable(nn.Parameter(torch.tensor([value], dtype=torch.float64)), name)


def sgd(*variables: Any, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(
        [p for v in variables for p in v.parameters()], **({"lr": 0.1} | options)
    )


# Three levels of scalars, quadratic; the solutions by hand.

B, C, D, E, F, G = 0.6, -0.4, 0.7, 0.5, 0.8, 0.9


def quadratic(*, across: bool, stopped: bool = False) -> tuple[list[Any], Any, Any, Any]:
    """Low: w = (B m + C a) / 2. `across`: low reads m by a signal below the problem over m."""
    W, M, A = scalar(0.3, "w"), scalar(-0.2, "m"), scalar(0.4, "a")

    @mlopt.signal(given=[M])
    def half(m):
        return {"half": m / 2}

    @mlopt.problem(over=W, given=[half if across else M, A], optimizer=sgd(W))
    def low(w, about_m, a):
        m = 2 * about_m["half"] if across else about_m
        return (w**2 - w * (B * m + C * a)).sum()

    @mlopt.problem(over=M, given=[mlopt.stop(W) if stopped else W, A], optimizer=sgd(M))
    def middle(m, w, a):
        return (m**2 + D * m * w + E * m * a + F * (w - 1) ** 2 / 2).sum()

    given = [half, W] if across else [M, W]

    @mlopt.problem(over=A, given=given, optimizer=sgd(A))
    def top(a, about_m, w):
        m = 2 * about_m["half"] if across else about_m
        return ((a - 1) ** 2 / 2 + G * m * w + m + 0.3 * w * a).sum()

    return [half, low, middle, top] if across else [low, middle, top], W, M, A


@pytest.mark.parametrize("across", [False, True])
def test_three_quadratic_levels(across: bool) -> None:
    nodes, W, M, A = quadratic(across=across)
    kinds = {p: Optimum() for p in nodes[-3:-1]}
    settle(nodes, kinds)
    a = A.tensor.item()
    # w = p m + q a, and 0 = 2 m + D w + E a + (D m + F (w - 1)) p
    p, q = B / 2, C / 2
    slope, mixed = 2 + 2 * D * p + F * p**2, D * q + E + F * p * q
    m, dm = (F * p - mixed * a) / slope, -mixed / slope
    w, dw = p * m + q * a, p * dm + q
    expected = a - 1 + G * (dm * w + m * dw) + dm + 0.3 * (dw * a + w)
    exact(M.tensor.item(), m, BY_HAND)
    exact(W.tensor.item(), w, BY_HAND)
    exact(hypergradient(nodes, kinds).item(), expected, BY_HAND)
    for kind in (Fixed(), Stopped(Optimum())):  # the middle held: low responds to `a` alone
        held = hypergradient(nodes, {nodes[-3]: Optimum(), nodes[-2]: kind}).item()
        exact(held, a - 1 + G * m * q + 0.3 * (q * a + w), BY_HAND)


def test_a_stopped_read_is_a_constant_in_every_derivative() -> None:
    nodes, W, M, A = quadratic(across=False, stopped=True)
    kinds = {p: Optimum() for p in nodes[:2]}
    settle(nodes, kinds)
    a = A.tensor.item()
    p, q = B / 2, C / 2
    m, dm = -(D * q + E) * a / (2 + D * p), -E / 2  # 0 = 2 m + D w + E a, there w a constant
    w, dw = p * m + q * a, p * dm + q
    expected = a - 1 + G * (dm * w + m * dw) + dm + 0.3 * (dw * a + w)
    exact(M.tensor.item(), m, BY_HAND)
    exact(W.tensor.item(), w, BY_HAND)
    exact(hypergradient(nodes, kinds).item(), expected, BY_HAND)


# Three levels of scalars with third derivatives.


def curved(W: Any, M: Any, A: Any, **options: Any) -> list[Any]:
    @mlopt.problem(over=W, given=[M, A], optimizer=sgd(W, **options))
    def low(w, m, a):
        return (torch.cosh(w) + w**2 / 4 + torch.sin(w) * m * a - w * m**2).sum()

    @mlopt.problem(over=M, given=[W, A], optimizer=sgd(M, **options))
    def middle(m, w, a):
        return (m**2 + torch.cosh(m - a) + torch.tanh(w) * m + w**2 * a / 2).sum()

    @mlopt.problem(over=A, given=[W, M], optimizer=sgd(A))
    def top(a, w, m):
        return (a**2 / 2 + torch.sin(w) * m + w * a + m**3).sum()

    return [low, middle, top]


def test_three_curved_levels_by_finite_differences() -> None:
    """The same three functions in plain numbers, every minimum searched for to rounding."""

    def low(m: float, a: float) -> float:
        w = 0.0
        for _ in range(60):
            w -= _low_slope(w, m, a) / _low_curvature(w, m, a)
        exact(_low_slope(w, m, a), 0.0, rounding(20, condition=4), scale=1.0)
        return w

    def _low_slope(w: float, m: float, a: float) -> float:
        return math.sinh(w) + w / 2 + math.cos(w) * m * a - m**2

    def _low_curvature(w: float, m: float, a: float) -> float:
        return math.cosh(w) + 0.5 - math.sin(w) * m * a

    def middle_slope(m: float, a: float) -> float:
        w = low(m, a)
        response = -(math.cos(w) * a - 2 * m) / _low_curvature(w, m, a)
        along_w = m / math.cosh(w) ** 2 + w * a
        return 2 * m + math.sinh(m - a) + math.tanh(w) + along_w * response

    def middle(a: float) -> float:
        below, above = -2.0, 2.0
        assert middle_slope(below, a) < 0 < middle_slope(above, a)
        while True:
            m = (below + above) / 2
            if m in (below, above):
                return m
            below, above = (m, above) if middle_slope(m, a) < 0 else (below, m)

    def value(a: float) -> float:
        m = middle(a)
        w = low(m, a)
        return a**2 / 2 + math.sin(w) * m + w * a + m**3

    W, M, A = scalar(0.1, "w"), scalar(0.1, "m"), scalar(0.7, "a")
    nodes = curved(W, M, A)
    kinds = {p: Optimum() for p in nodes[:2]}
    settle(nodes, kinds)
    exact(M.tensor.item(), middle(0.7), BY_HAND)

    def difference(h: float) -> float:
        return (value(0.7 + h) - value(0.7 - h)) / (2 * h)

    expected = (4 * difference(1e-3) - difference(2e-3)) / 3
    why = "two differences extrapolated: rounding / 1e-3, and 4e-12 of the fifth derivative"
    near(hypergradient(nodes, kinds).item(), expected, 1e-9, why=why)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_steps_are_a_plain_program(k: int) -> None:
    W, M, A = scalar(0.1, "w"), scalar(0.3, "m"), scalar(0.7, "a")
    nodes = curved(W, M, A)
    low, middle, top = (n.fn for n in nodes)

    def solve_low(m: Tensor, a: Tensor) -> Tensor:
        w = W.tensor.detach().clone().requires_grad_()
        for _ in range(k):
            w = w - 0.2 * torch.autograd.grad(low(w, m, a), w, create_graph=True)[0]
        return w

    def solve_middle(a: Tensor) -> Tensor:
        m = M.tensor.detach().clone().requires_grad_()
        for _ in range(k):
            total = middle(m, solve_low(m, a), a)
            m = m - 0.15 * torch.autograd.grad(total, m, create_graph=True)[0]
        return m

    a = A.tensor.detach().clone().requires_grad_()
    m = solve_middle(a)
    (expected,) = torch.autograd.grad(top(a, solve_low(m, a), m), a)
    kinds = {nodes[0]: Steps(k, lr=0.2), nodes[1]: Steps(k, lr=0.15)}
    found = hypergradient(nodes, kinds)
    exact(found, expected, sweep_rounding(2 * k))
    for p, lr in ((nodes[0], 0.2), (nodes[1], 0.15)):  # the plain optimizer takes the same steps
        p.optimizer.param_groups[0]["lr"] = lr
    own = hypergradient(nodes, {p: Steps(k) for p in nodes[:2]})
    exact(own, expected, sweep_rounding(2 * k))


@pytest.mark.parametrize("kinds", [(Optimum(), Steps(2, lr=0.15)), (Steps(2, lr=0.2), Optimum())])
def test_optima_and_steps_in_one_list(kinds: tuple[Any, Any]) -> None:
    """Steps of the middle displace it, and the optimum below is another than the standing one."""
    nodes = curved(scalar(0.1, "w"), scalar(0.3, "m"), scalar(0.7, "a"))
    of = dict(zip(nodes[:2], kinds, strict=True))
    settle(nodes, of)
    value, x = as_function(nodes, of)
    expected = numerical_derivative(value, x)
    near(hypergradient(nodes, of), expected.flatten(), 1e-8, why=DIFFERENCES)


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.8, "weight_decay": 0.1},
        {"momentum": 0.8, "dampening": 0.3},
        {"momentum": 0.7, "nesterov": True, "maximize": True},
    ],
)
@pytest.mark.parametrize("past", [0, 2])
def test_the_optimizer_s_steps_are_torch_s(options: dict[str, Any], past: int) -> None:
    """Three steps of an optimizer with momentum: the value by torch, the derivative from values."""
    W, A = scalar(0.4, "w"), scalar(0.7, "a")
    optimizer = warmed(sgd(W, **options), past)

    @mlopt.problem(over=W, given=[A], optimizer=optimizer)
    def low(w, a):
        return (torch.cosh(w - a) + w**3 * a / 5).sum()

    @mlopt.problem(over=A, given=[W], optimizer=sgd(A))
    def top(a, w):
        return w.sum()  # the value itself

    def value(a: Tensor) -> Tensor:
        """By torch's own `step()`, three times on one twin of the optimizer."""

        def steps(twin: Any, parameters: list[Tensor]) -> None:
            (p,) = parameters
            for _ in range(3):
                (p.grad,) = torch.autograd.grad(low(p, a), p)
                twin.step()

        # without a gradient, the step that torch_update takes after `steps` does nothing
        return torch_update(optimizer, [W.tensor], [None], steps)[0]

    oracle = Nested([low, top], {low: Steps(3)})
    found, _ = oracle.evaluate(top)
    # three steps of a gradient of 15 operations
    exact(found, value(A.tensor.detach()).squeeze(), rounding(3 * 2 * 15, condition=10))
    expected = numerical_derivative(value, A.tensor.detach())
    near(hypergradient([low, top], {low: Steps(3)}), expected.flatten(), 1e-8, why=DIFFERENCES)


def test_a_module_and_a_parameter_left_alone() -> None:
    """A module arrives as itself; what its optimizer does not hold stays where it is."""
    net = nn.Linear(1, 1).double()
    with torch.no_grad():
        net.weight.fill_(0.3)
        net.bias.fill_(0.2)
    W, A = mlopt.Variable(net, "w"), scalar(0.5, "a")

    @mlopt.problem(over=W, given=[A], optimizer=torch.optim.SGD([net.weight], lr=0.1))
    def low(w, a):
        return ((w(a) - 1) ** 2).sum()

    @mlopt.problem(over=A, given=[W], optimizer=sgd(A))
    def top(a, w):
        return w(torch.ones_like(a)).sum()

    settle([low, top], {low: Optimum()})
    exact(net.weight.item(), 1.6, BY_HAND)  # (1 - bias) / a
    assert net.bias.item() == 0.2
    found = hypergradient([low, top], {low: Optimum()})
    exact(found.item(), -0.8 / 0.25, BY_HAND)

"""Objectives without second derivatives: found at the first step, mended where possible, said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import exact, near, rounding
from functions import SquareOnce
from torch import Tensor, nn

import mlopt
from mlopt import CG, CapabilityWarning, Central, Exact, Implicit, OneStep, Sama, Unrolled

METHODS = {
    "one_step": OneStep(lr=0.1),
    "one_step_central": OneStep(0.1, Central(1e-3)),
    "implicit": Implicit(CG(5), damping=10.0),
    "sama": Sama(Exact()),
    "unrolled": Unrolled(2),
    "unrolled_recomputed": Unrolled(3, recompute=True),
    "zeroth_order": mlopt.ZerothOrder(OneStep(lr=0.1), samples=2),
}
#: A layer of 100 operations, by another kernel; of differences, divided by their radius.
BOUNDS = {True: rounding(4 * 100, condition=100), False: rounding(4 * 100, condition=10) / 1e-3}
F64 = torch.float64
SECOND = [name for name, m in METHODS.items() if m.cost.keeps_graph or m.traced]


def tokens() -> Tensor:
    return torch.randn(3, 4, 8, dtype=F64, generator=torch.Generator().manual_seed(0))


def problems(net: nn.Module, method: Any) -> tuple[mlopt.Engine, Any, Any]:
    """Token weights steer what a network learns; a clean loss judges it."""
    x = tokens()
    W = mlopt.Variable(net, "w")
    A = mlopt.Variable(nn.Parameter(torch.zeros(3, 4, 1, dtype=F64)), "a")

    @mlopt.problem(over=W, given=[A], optimizer=torch.optim.SGD(W.parameters(), lr=0.1),
                   hypergrad=method)  # fmt: skip
    def train(w, a):
        return (torch.sigmoid(a) * (w(x) - x.roll(1, 1)) ** 2).mean()

    @mlopt.problem(over=A, given=[W], optimizer=torch.optim.SGD(A.parameters(), lr=0.1))
    def valid(a, w):
        return ((w(x) - x.roll(1, 1)) ** 2).mean()

    return mlopt.Engine([train, valid]), train, (valid, A)


def transformer() -> nn.Module:
    torch.manual_seed(1)
    return nn.TransformerEncoderLayer(
        8, 2, 16, dropout=0.0, batch_first=True, activation="gelu", dtype=F64
    )


def hypergradient(net: nn.Module, method: Any) -> Tensor:
    engine, _, (upper, A) = problems(net, method)
    return engine.hypergradient(upper)[A][""]


@pytest.fixture(scope="module")
def flash() -> bool:
    """Whether fused attention lacks a double backward here."""
    q = torch.randn(1, 2, 4, 4, dtype=F64, requires_grad=True)
    out = nn.functional.scaled_dot_product_attention(q, q, q).square().sum()
    (g,) = torch.autograd.grad(out, q, create_graph=True)
    try:
        torch.autograd.grad(g.sum(), q)
    except RuntimeError:
        return True
    return False


@pytest.mark.parametrize("name", METHODS)
def test_attention(name: str, flash: bool) -> None:
    method = METHODS[name]
    net = transformer()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = hypergradient(net, method)
    engine, train, (upper, A) = problems(net, method)
    if flash and name in SECOND:
        with pytest.warns(CapabilityWarning, match="train: .*mathematical kernel"):
            found = engine.hypergradient(upper)[A][""]
        engine.hypergradient(upper)  # said once: here a warning would be an error
        assert "mathematical kernel" in str(engine.plan())
    else:
        found = engine.hypergradient(upper)[A][""]
        assert "kernel" not in str(engine.plan())
    exact(found, expected, BOUNDS[name in SECOND], what=name)
    engine.step()


@pytest.fixture(scope="module")
def compiles() -> bool:
    """Whether a compiled module lacks a double backward here; not every build compiles it."""
    net = torch.compile(nn.Sequential(nn.Linear(8, 8), nn.Tanh()).double(), backend="aot_eager")
    first = torch.autograd.grad((net(tokens()) ** 2).sum(), list(net.parameters()),
                                create_graph=True)  # fmt: skip
    try:
        torch.autograd.grad(sum(g.sum() for g in first), list(net.parameters()))
    except RuntimeError:
        return True
    return False


#: Each asks a compiled module for what another one asks for, and to trace takes a second: one
#: that differentiates twice, one by steps of its own, and one by differences.
COMPILED = ("one_step", "unrolled", "one_step_central")


@pytest.mark.parametrize(
    "name", [n if n in COMPILED else pytest.param(n, marks=pytest.mark.slow) for n in METHODS]
)
def test_compiled_module(name: str, compiles: bool) -> None:
    method = METHODS[name]
    plain = nn.Sequential(nn.Linear(8, 8), nn.Tanh()).double()
    expected = hypergradient(plain, method)
    torch._dynamo.reset()
    engine, train, (upper, A) = problems(torch.compile(plain, backend="aot_eager"), method)
    if name in SECOND and compiles:
        with pytest.warns(CapabilityWarning, match="train: .*compiled modules uncompiled"):
            found = engine.hypergradient(upper)[A][""]
        assert "uncompiled" in str(engine.plan())
    else:
        found = engine.hypergradient(upper)[A][""]
    exact(found, expected, BOUNDS[name in SECOND], what=name)
    engine.step()


class Custom(nn.Module):
    def __init__(self, square: Any) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layer, self.square = nn.Linear(8, 8, dtype=F64), square

    def forward(self, x: Tensor) -> Tensor:
        return self.square(self.layer(x))


@pytest.mark.parametrize("name", [n for n in SECOND if not METHODS[n].traced])
def test_custom_function_of_which_the_value_is_a_sum(name: str) -> None:
    """What comes back to it is a constant, and torch marks nothing."""

    def run(square: Any) -> Tensor:
        W = mlopt.Variable(nn.Parameter(tokens()[0, 0]), "w")
        A = mlopt.Variable(nn.Parameter(torch.full((8,), 0.3, dtype=F64)), "a")
        method = METHODS[name]

        @mlopt.problem(over=W, given=[A], optimizer=torch.optim.SGD(W.parameters(), lr=0.1),
                       hypergrad=method)  # fmt: skip
        def train(w, a):
            return square(w * a.exp()).sum() + (w**2).sum()

        @mlopt.problem(over=A, given=[W], optimizer=torch.optim.SGD(A.parameters(), lr=0.1))
        def valid(a, w):
            return w.sin().sum() + (a**2).sum()

        return mlopt.Engine([train, valid]).hypergradient(valid)[A][""]

    with pytest.warns(CapabilityWarning, match=r"^train: central differences.*once_different"):
        found = run(SquareOnce.apply)
    near(found, run(lambda x: x**2), 0.01**2, why="radius^2 / 6 of the third derivative")


@pytest.mark.parametrize("name", METHODS)
def test_custom_function(name: str) -> None:
    """No kernel helps: central differences where the method has a product, else an error."""
    method = METHODS[name]
    expected = hypergradient(Custom(lambda x: x**2), method)
    engine, train, (upper, A) = problems(Custom(SquareOnce.apply), method)
    if method.traced:
        with pytest.raises(mlopt.GraphError, match=r"train: Unrolled.*twice.*Central\(\)"):
            engine.hypergradient(upper)
        return
    if name in SECOND:
        with pytest.warns(CapabilityWarning, match="train: central differences for"):
            found = engine.hypergradient(upper)[A][""]
        assert "central differences" in str(engine.plan())
    else:
        found = engine.hypergradient(upper)[A][""]
    # mended by central differences, whose radius is 0.01
    near(found, expected, 100 * 0.01**2 / 6, why="radius^2 / 6 of the third derivative", what=name)

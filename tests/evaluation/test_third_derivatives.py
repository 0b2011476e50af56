"""Objectives without third derivatives in nested levels: differences where they are needed."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from case_graphs import tensor
from compare import exact, near, rounding
from small import F64, seeded
from torch import Tensor, nn

import mlopt
from mlopt import CapabilityWarning, Central, Dense, GraphError, Implicit, OneStep, Unrolled

CPU = torch.device("cpu")
X = tensor(CPU, 4, 6, 2)
RADIUS = 200 * 0.01**2
WHY = "radius^2 / 6 of the third derivative, of which some are in the hundreds"


class Norm(nn.Module):
    """Batch normalisation, differentiable as often as one likes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(0)
        return self.weight * centred / ((centred**2).mean(0) + 1e-5).sqrt() + self.bias


def world(norm: nn.Module, low_method: Any, mid_method: Any) -> tuple[mlopt.Engine, Any]:
    """Three levels, of which the middle one steers the network of the lowest."""
    net = seeded(1, lambda: nn.Sequential(nn.Linear(2, 2), norm, nn.Tanh()))
    W = mlopt.Variable(net, "w")
    B, A = (mlopt.Variable(nn.Parameter(torch.ones(2, dtype=F64)), n) for n in "ba")

    def sgd(v: Any) -> Any:
        return torch.optim.SGD(v.parameters(), lr=0.1)

    low = mlopt.problem(
        over=W, given=[B], optimizer=sgd(W), hypergrad=low_method, name="low"
    )(lambda w, b: ((w(X) * b - b.sin()) ** 2).mean() + 0.1 * sum(
        (p**2).sum() for p in w.parameters()))  # fmt: skip
    mid = mlopt.problem(over=B, given=[W, A], optimizer=sgd(B), hypergrad=mid_method, name="mid")(
        lambda b, w, a: ((w(X) * a) ** 2).mean() + (b**4).sum()
    )
    top = mlopt.problem(over=A, given=[B, W], optimizer=sgd(A), name="top")(
        lambda a, b, w: (b**2).sum() + w(X).sin().sum() + (a**2).sum()
    )
    return mlopt.Engine([low, mid, top]), top


def found(engine: mlopt.Engine, top: Any) -> Tensor:
    return engine.hypergradient(top)[top.over[0]][""]


class _Curve(torch.autograd.Function):
    """The second derivative of sin, which has none itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cotangent: Tensor, along: Tensor) -> Tensor:
        return -x.sin() * cotangent * along

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> Any:
        raise RuntimeError("a sine of two derivatives has no third")


class _Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cotangent: Tensor) -> Tensor:
        ctx.save_for_backward(x, cotangent)
        return x.cos() * cotangent

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> Any:
        x, cotangent = ctx.saved_tensors
        return _Curve.apply(x, cotangent, along), _Slope.apply(x, along)


class _Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> Any:
        return _Slope.apply(*ctx.saved_tensors, along)


class Twice(nn.Module):
    """A sine that can be differentiated twice, and no more."""

    def forward(self, x: Tensor) -> Tensor:
        return _Sine.apply(x)


class Sine(nn.Module):
    """One that can be as often as one likes."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


METHODS = {
    "one step": OneStep(),
    "unrolled": Unrolled(2),
    "implicit": Implicit(Dense(), damping=2.0),
}


@pytest.mark.parametrize("mid", METHODS)
@pytest.mark.parametrize("low", METHODS)
def test_it_is_right_or_refused_by_name(low: str, mid: str) -> None:
    methods = METHODS[low], METHODS[mid]
    expected = found(*world(Sine(), *methods))
    engine, top = world(Twice(), *methods)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if (low, mid) == ("unrolled", "unrolled"):
            with pytest.raises(GraphError, match=r"low: nested levels.*Central\(\)"):
                engine.step()
            return
        value = found(engine, top)
    near(value, expected, RADIUS, why=WHY)
    texts = [str(w.message) for w in caught]
    assert all("because nested levels differentiate the objective of low" in t for t in texts)
    assert all(t.split(", because")[0] in str(engine.plan()) for t in texts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.step()  # said once


def test_a_player_is_not_told_to_take_another_method() -> None:
    """Its play would refuse it; a problem above may take one."""
    W, V, B, A = (mlopt.Variable(nn.Parameter(torch.full((2,), x, dtype=F64)), n)
                  for n, x in (("w", 1.0), ("v", 0.5), ("b", 0.3), ("a", 0.2)))  # fmt: skip

    def of(over: Any, *given: Any, name: str, **options: Any) -> Any:
        optimizer = torch.optim.SGD(over.parameters(), lr=0.1)
        return mlopt.problem(over=over, given=given, optimizer=optimizer, name=name, **options)

    low = of(W, V, B, name="low")(lambda w, v, b: (Twice()(w * b) * v).sum() + (w**2).sum())
    beside = of(V, W, name="beside")(lambda v, w: (v * w).sum() + (v**2).sum())
    mid = of(B, W, A, name="mid", hypergrad=Unrolled(2))(lambda b, w, a: (w * a * b.exp()).sum())
    top = of(A, B, name="top")(lambda a, b: (b**2).sum() + (a**2).sum())
    game = mlopt.Game([low, beside], play=mlopt.games.Joint(2))
    with pytest.raises(GraphError, match=r"low.*Central\(\) on a problem above"):
        mlopt.Engine([game, mid, top]).step()


class Layer(nn.Module):
    """Layer normalisation, differentiable as often as one likes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(1, keepdim=True)
        return self.weight * x / ((x**2).mean(1, keepdim=True) + 1e-5).sqrt() + self.bias


NORMS = {"layer": (nn.LayerNorm, Layer), "batch": (nn.BatchNorm1d, Norm)}


@pytest.mark.parametrize("mid", METHODS)
@pytest.mark.parametrize("low", METHODS)
@pytest.mark.parametrize("name", NORMS)
def test_norms_whose_third_derivative_torch_gets_wrong(name: str, low: str, mid: str) -> None:
    """It takes saved means for constants, and raises nothing, or does in some versions."""
    methods, (torchs, ours) = (METHODS[low], METHODS[mid]), NORMS[name]
    engine, top = world(torchs(2), *methods)
    exact(found(engine, top), found(*world(ours(), *methods)), rounding(2000, condition=1e3))
    assert not engine.graph.notes


def test_nothing_changes_where_no_third_derivative_is_taken() -> None:
    """Of differences, and of a function that has them: no warning, and the methods stay."""
    engine, top = world(Twice(), OneStep(product=Central()), OneStep(product=Central()))
    near(found(engine, top), found(*world(Sine(), OneStep(), OneStep())), RADIUS, why=WHY)
    engine, top = world(Norm(), OneStep(), Unrolled(2))
    before = dict(engine.graph.methods)
    engine.step()
    assert engine.graph.methods == before
    assert not engine.graph.notes


def test_the_methods_above_help_where_the_lowest_has_no_product() -> None:
    engine, top = world(Twice(), Unrolled(2), Implicit(Dense(), damping=2.0))
    with pytest.warns(CapabilityWarning, match=r"^mid: central differences for Implicit.*of low"):
        engine.hypergradient(top)
    assert engine.graph.methods[top] == mlopt.Frozen()

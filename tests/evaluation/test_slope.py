"""Products by differences are those of the function that trains, or a warning names `Exact`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from compare import exact, near, rounding
from small import F64, seeded, sgd
from torch import Tensor, nn

import mlopt
from mlopt import CapabilityWarning

X = torch.linspace(-1.0, 1.5, 36, dtype=F64).reshape(12, 3)
Y = X.sum(1, keepdim=True).sin()


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return -cotangent


def straight_through(h: Tensor) -> Tensor:
    return h + (torch.round(h * 2) / 2 - h).detach()


def hard(h: Tensor) -> Tensor:
    soft = h.softmax(-1)
    return nn.functional.one_hot(soft.argmax(-1), h.shape[-1]).to(soft) + soft - soft.detach()


def cast(h: Tensor) -> Tensor:
    return h.bfloat16().to(h.dtype)


BENT: dict[str, Callable[[Tensor], Tensor]] = {
    "straight through": straight_through, "hard choice": hard, "reversed": Reversed.apply,
    "cast": cast,
}  # fmt: skip
STRAIGHT: dict[str, Callable[[Tensor], Tensor]] = {
    "smooth": torch.tanh, "relu": torch.relu, "scaled down": lambda h: 1e-4 * h,
}  # fmt: skip
PRODUCTS = [mlopt.OneStep(product=mlopt.Central()), mlopt.OneStep(product=mlopt.OneSided()),
            mlopt.Sama(), mlopt.Implicit(product=mlopt.Central(), damping=1.0)]  # fmt: skip


def two_levels(
    bend: Callable[[Tensor], Tensor], method: Any, dtype: torch.dtype, where: str = "w"
) -> mlopt.Engine:
    W = mlopt.Variable(seeded(3, lambda: nn.Linear(3, 4)).to(dtype), "w")
    R = mlopt.Variable(nn.Parameter(torch.full((12, 1), 0.1, dtype=dtype)), "r")
    x, y = X.to(dtype), Y.to(dtype)

    def low(w, r):
        out, weight = (bend(w(x)), r) if where == "w" else (w(x), bend(r))
        return (weight.exp() * (out - y) ** 2).mean()

    lower = mlopt.problem(over=W, given=[R], optimizer=sgd(W), hypergrad=method, name="low")(low)
    upper = mlopt.problem(over=R, given=[W], optimizer=sgd(R), name="up")(
        lambda r, w: (w(x) ** 2).mean() + 0.1 * (r**2).sum()
    )
    return mlopt.Engine([lower, upper])


def said(engine: mlopt.Engine) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine.step()
    return [str(w.message) for w in caught if issubclass(w.category, CapabilityWarning)]


@pytest.mark.parametrize("kind", BENT)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_one_warning_names_exact(kind: str, dtype: torch.dtype) -> None:
    for method in PRODUCTS:
        (text,) = said(two_levels(BENT[kind], method, dtype))
        assert text.startswith("low: ")
        assert "Exact()" in text


@pytest.mark.parametrize("kind", ["straight through", "reversed"])
def test_what_is_bent_in_an_argument_alone_is_right_by_differences(kind: str) -> None:
    """They are taken in w, and the argument's backward is the same on both sides of them."""
    found = []
    for method in (mlopt.OneStep(lr=0.1), mlopt.OneStep(lr=0.1, product=mlopt.Central(1e-4))):
        engine = two_levels(BENT[kind], method, F64, "r")
        up = engine.graph.problems[1]
        (gradient,) = engine.hypergradient(up).values()
        found.append(gradient[""])
        assert not said(engine)
    near(*found, 1e-5, why="central difference: radius^2 of the third derivative")


@pytest.mark.parametrize("kind", [*STRAIGHT, *BENT])
def test_the_nearest_legal_ones_are_silent(kind: str) -> None:
    for dtype in (torch.float32, F64):
        if kind in STRAIGHT:
            for method in PRODUCTS[:3]:
                assert not said(two_levels(STRAIGHT[kind], method, dtype))
        else:
            for method in (mlopt.OneStep(), mlopt.Frozen(), mlopt.Unrolled(2)):
                assert not said(two_levels(BENT[kind], method, dtype))


def test_low_precision_is_told_by_its_dtype() -> None:
    (text,) = said(two_levels(torch.tanh, mlopt.OneStep(product=mlopt.Central()), torch.bfloat16))
    assert "bfloat16" in text
    assert "Exact()" in text


def test_exact_is_the_derivative_of_the_step_that_is_made() -> None:
    """The gradient is that of a smooth function of r, however it is bent in w."""
    engine = two_levels(straight_through, mlopt.OneStep(), F64)
    up = engine.graph.problems[1]
    (found,) = engine.hypergradient(up).values()
    w = engine.graph.variables[0].value
    r = torch.full((12, 1), 0.1, dtype=F64, requires_grad=True)
    out = straight_through(w(X))
    grads = torch.autograd.grad((r.exp() * (out - Y) ** 2).mean(), [*w.parameters()],
                                create_graph=True)  # fmt: skip
    weight, bias = (p - 0.1 * g for p, g in zip(w.parameters(), grads, strict=True))
    (expected,) = torch.autograd.grad((nn.functional.linear(X, weight, bias) ** 2).mean(), r)
    exact(found[""], expected + 0.2 * r.detach(), rounding(100, condition=10))

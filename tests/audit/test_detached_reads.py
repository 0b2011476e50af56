"""What a function reads past autograd: the audit names the function and what it reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from audit.audited import right
from grids import thinned
from small import F64
from torch import Tensor, nn

import mlopt
from mlopt import Central, Dense, Frozen, Implicit, OneStep, Sama, Unrolled


def inside(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return torch.no_grad()(function)


class Through(torch.autograd.Function):
    """A backward of its own, that passes half."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        return cotangents[0] / 2


WHOLE: dict[str, Any] = {
    "detach": lambda a: a.detach(),
    "no_grad": inside(lambda a: a * 2),
    "data": lambda a: a.data,
    "item": lambda a: a.sum().item(),
}
PART: dict[str, Any] = {
    "half": lambda a: a.detach() + 0.5 * a,
    "backward": Through.apply,
}
METHODS = [
    OneStep(),
    OneStep(product=Central()),
    Implicit(Dense()),
    Implicit(product=Central()),
    Unrolled(2),
    Sama(),
    Frozen(),
]


def world(how: Any, method: Any, dtype: Any = F64, stop: bool = False) -> mlopt.Engine:
    W, A, B = (
        mlopt.Variable(nn.Parameter(torch.tensor([1.0, 2.0], dtype=dtype)), n) for n in "wab"
    )
    low = mlopt.problem(
        over=W, given=[mlopt.stop(A) if stop else A, B], hypergrad=method, name="low",
        optimizer=torch.optim.SGD(W.parameters(), lr=0.1),
    )(lambda w, a, b: ((w - how(a)) ** 2).sum() + (w * b).sum())  # fmt: skip
    also = mlopt.problem(over=B, given=[A], hypergrad=OneStep(lr=0.1), name="also")(
        lambda b, a: (b * a).sum() + (b**2).sum()
    )
    top = mlopt.problem(over=A, given=[W, B], name="top")(
        lambda a, w, b: (w**2).sum() + (a * b).sum()
    )
    return mlopt.Engine([also, low, top])


def named(engine: mlopt.Engine) -> list[str]:
    """The texts, but for the distance of an optimum that nobody has looked for."""
    warnings = mlopt.audit(engine, directions=1).warnings
    return [w for w in warnings if "takes its standing value" not in w]


@pytest.mark.parametrize(("how", "method"), thinned(2, [*WHOLE, *PART], METHODS), ids=str)
def test_it_says_that_and_nothing_else(how: str, method: Any) -> None:
    (text,) = named(world({**WHOLE, **PART}[how], method))
    if how == "backward":
        assert text.startswith("low: by a the backward is not the derivative of the values")
        assert "Through has a backward of its own" in text
        return
    part = "in part " if how in PART else ""
    way = {"half": "detach()", "detach": "detach()", "data": ".data", "item": "item()"}
    assert text.startswith(f"low reads a {part}without gradient ({way.get(how, how)} in test_det")
    assert "stop(a)" in text


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_stopped_read_and_a_plain_one_are_right(method: Any) -> None:
    for how, stop in ((lambda a: a, True), (lambda a: a, False)):
        texts = named(world(how, method, stop=stop))
        assert not [t for t in texts if "without gradient" in t]
    if not isinstance(method, Implicit):
        right(mlopt.audit(world(WHOLE["detach"], method, stop=True), directions=1).worst, 1e-5)


def test_in_float32_and_in_a_signal() -> None:
    assert len(named(world(WHOLE["detach"], OneStep(), torch.float32))) == 1
    W, A = (mlopt.Variable(nn.Parameter(torch.ones(2, dtype=F64)), n) for n in "wa")
    made = mlopt.signal(given=[A], name="made")(lambda a: {"x": a.detach() ** 2, "n": a})
    low = mlopt.problem(over=W, given=[made], hypergrad=OneStep(lr=0.1), name="low")(
        lambda w, made: ((w - made["x"] - made["n"]) ** 2).sum()
    )
    top = mlopt.problem(over=A, given=[W], name="top")(lambda a, w: (w**2).sum() + (a**2).sum())
    (text,) = named(mlopt.Engine([made, low, top]))
    assert text.startswith("made reads a in part without gradient")


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_detached_read_is_legal_and_passes_nothing(method: Any) -> None:
    """By differences, too, where nothing that is read can be differentiated."""
    W, A = (mlopt.Variable(nn.Parameter(torch.tensor([1.0, 2.0], dtype=F64)), n) for n in "wa")
    low = mlopt.problem(
        over=W, given=[A], hypergrad=method, optimizer=torch.optim.SGD(W.parameters(), lr=0.1)
    )(lambda w, a: ((w - a.detach()) ** 2).sum() + (w**2).sum())
    top = mlopt.problem(over=A, given=[W])(lambda a, w: (w**2).sum() + 3 * a.sum())
    found = mlopt.Engine([low, top]).hypergradient(top)[A][""]
    assert torch.equal(found, torch.full_like(found, 3.0))

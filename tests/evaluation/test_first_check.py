"""What the first check costs in memory: it holds no more graphs at a time than a step does."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

import mlopt

METHODS = {
    "Frozen": mlopt.Frozen(),
    "central": mlopt.OneStep(product=mlopt.Central()),
    "one-sided": mlopt.OneStep(product=mlopt.OneSided()),
    "exact": mlopt.OneStep(product=mlopt.Exact()),
}


class Token:
    """Lives as long as the graph that holds it."""


class Held(torch.autograd.Function):
    """The identity; its place in a graph can be seen to live."""

    living: list[weakref.ref[Token]]

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.token = Token()
        Held.living.append(weakref.ref(ctx.token))
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


def alive() -> int:
    return sum(token() is not None for token in Held.living)


@pytest.mark.parametrize("method", METHODS)
def test_the_first_check_holds_no_more_graphs_than_a_step(method: str) -> None:
    # A step holds one at a time, or two where a product goes through the lower one again.
    Held.living = []
    most = 0
    w, a = (torch.nn.Parameter(torch.full((2,), x, dtype=torch.float64)) for x in (0.5, -0.5))
    W, A = mlopt.Variable(w, "w"), mlopt.Variable(a, "a")

    def note(x: Tensor) -> Tensor:
        nonlocal most
        out = Held.apply(x)
        most = max(most, alive())
        return out

    @mlopt.problem(over=W, given=[A], optimizer=torch.optim.SGD([w], 0.1))
    def lower(w: Tensor, a: Tensor) -> Tensor:
        return ((note(w) - a) ** 2).sum()

    @mlopt.problem(over=A, given=[W], optimizer=torch.optim.SGD([a], 0.1))
    def upper(a: Tensor, w: Tensor) -> Tensor:
        return (note(w) ** 2).sum() + (a**2).sum()

    engine = mlopt.Engine([lower, upper], hypergrad=METHODS[method])
    engine.step()
    first, most = most, 0
    engine.step()
    assert alive() == 0
    assert first <= max(most, 1)

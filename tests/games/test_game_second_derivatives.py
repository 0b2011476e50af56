"""Players whose objective has no second derivative, and what the errors say of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from audit.planted import Once
from small import F64, sgd
from torch import Tensor, nn

import mlopt
from mlopt import CapabilityWarning, Frozen, Game, GraphError, OneStep, Unrolled
from mlopt.games import Alternating, Extragradient, Joint, Simultaneous


class Detached(torch.autograd.Function):
    """The sine, whose backward is a constant to the next one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * ctx.saved_tensors[0].detach().cos()


PLAYS = {
    "joint": lambda x, y: Joint(2),
    "alternating": lambda x, y: Alternating((x, 1), (y, 1)),
    "extragradient": lambda x, y: Extragradient(),
}


def led(play: Any, function: Any, method: Any = None) -> mlopt.Engine:
    """Two players, of whom x has such an objective, and a leader who sees both."""
    X, Y, A = (mlopt.Variable(nn.Parameter(torch.full((2,), v, dtype=F64)), n)
               for n, v in (("x", 1.0), ("y", 0.5), ("a", 0.3)))  # fmt: skip

    @mlopt.problem(over=X, given=[Y, A], optimizer=sgd(X), hypergrad=method)
    def px(x, y, a):
        return (function(x * y) * a.exp()).sum() + (x**2).sum()

    @mlopt.problem(over=Y, given=[X], optimizer=sgd(Y))
    def py(y, x):
        return (y * x).sum() + (y**2).sum()

    @mlopt.problem(over=A, given=[X, Y], optimizer=sgd(A))
    def top(a, x, y):
        return (x**2).sum() + (y**2).sum() + (a**2).sum()

    return mlopt.Engine([Game([px, py], play(px, py)), top], hypergrad=OneStep())


@pytest.mark.parametrize("play", PLAYS)
def test_what_the_error_advises_can_be_done(play: str) -> None:
    with pytest.raises(GraphError, match="once_differentiable") as error:
        led(PLAYS[play], Once.apply).step()
    assert "play=Simultaneous()" in str(error.value)
    assert "OneStep or Implicit with product=Central()" in str(error.value)
    assert "hypergrad=Frozen()" in str(error.value)
    led(lambda x, y: Simultaneous(), Once.apply, OneStep(product=mlopt.Central())).step()
    led(PLAYS[play], Once.apply, Frozen()).step()


def test_simultaneous_players_take_differences_by_themselves() -> None:
    with pytest.warns(CapabilityWarning, match="px: central differences"):
        led(lambda x, y: Simultaneous(), Once.apply).step()


def test_the_audit_advises_the_same() -> None:
    (cause,) = mlopt.audit(led(PLAYS["joint"], Detached.apply)).causes
    assert cause.kind == "derivatives"
    assert "play=Simultaneous()" in cause.text
    (cause,) = mlopt.audit(led(lambda x, y: Simultaneous(), Detached.apply)).causes
    assert "play=" not in cause.text
    assert "product=Central()" in cause.text


def test_levels_that_are_not_played_are_advised_as_before() -> None:
    W, A = (mlopt.Variable(nn.Parameter(torch.ones(2, dtype=F64)), n) for n in "wa")

    @mlopt.problem(over=W, given=[A], optimizer=sgd(W), hypergrad=Unrolled(2))
    def low(w, a):
        return (Once.apply(w * a) * a).sum()

    @mlopt.problem(over=A, given=[W], optimizer=sgd(A))
    def up(a, w):
        return (a * w).sum()

    with pytest.raises(GraphError, match=r"Use OneStep or Implicit with product=Central\(\)"):
        mlopt.Engine([low, up]).step()

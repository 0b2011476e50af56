"""An objective that refuses the nan of a lower problem does not hide whose it is."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from small import F64, sgd
from torch import Tensor, nn

import mlopt

X = torch.linspace(-1, 1, 6, dtype=F64).view(2, 3)
BATCHES = [X, torch.full_like(X, math.nan), X]


def checked(y: Tensor) -> Tensor:
    if not torch.isfinite(y).all():
        raise FloatingPointError("diverged")
    return y.square().mean()


READERS: dict[str, Callable[[Tensor], Tensor]] = {
    "an error of its own": checked,
    "a distribution": lambda y: -torch.distributions.Normal(y, 1.0).log_prob(y.detach() + 1).mean(),
    "a factorization": lambda y: torch.linalg.cholesky(
        torch.eye(2, dtype=F64) + y @ y.T).diagonal().log().sum(),
}  # fmt: skip


def levels(read: Callable[[Tensor], Tensor], method: mlopt.AbstractHypergradient) -> list:
    torch.manual_seed(0)
    W = mlopt.Variable(nn.Linear(3, 1, dtype=F64), "w")
    R = mlopt.Variable(nn.Parameter(torch.zeros(1, dtype=F64)), "r")
    low = mlopt.problem(
        over=W, given=[R], data=BATCHES, optimizer=sgd(W), hypergrad=method, name="low"
    )(lambda w, r, x: ((w(x) * r.exp() - 1) ** 2).mean())
    up = mlopt.problem(over=R, given=[W], optimizer=sgd(R), name="up")(
        lambda r, w: read(w(X)) + r.square().sum()
    )
    return [low, up]


@pytest.mark.parametrize("method", [mlopt.OneStep(), mlopt.Unrolled(1)], ids=repr)
@pytest.mark.parametrize("what", READERS)
def test_the_step_is_skipped_and_the_lower_problem_named(what, method):
    engine = mlopt.Engine(levels(READERS[what], method), skip_nonfinite=1)
    engine.step()
    held = [p for variable in engine.graph.variables for p in variable.parameters()]
    before = [p.detach().clone() for p in held]
    engine.step()
    assert engine.skipped is not None
    assert engine.skipped.problem == "low"
    assert all(map(torch.equal, before, held))
    engine.step()
    assert engine.skipped is None


def test_an_error_that_has_another_cause_is_raised_as_it_is():
    """Of the graph, though the same step has met nan; and of the user's, where all is finite."""

    def fails(y: Tensor) -> Tensor:
        raise FloatingPointError("in any case")

    low, up = levels(READERS["an error of its own"], mlopt.OneStep())
    engine = mlopt.Engine([low, up], skip_nonfinite=1)
    engine.step()
    up.fn = lambda r, w: fails(w(X))
    engine.step()  # its batch is nan
    assert engine.skipped is not None
    with pytest.raises(FloatingPointError, match="in any case"):
        engine.step()

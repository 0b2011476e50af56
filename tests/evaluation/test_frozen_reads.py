"""Functions that freeze what they read: refused by name where a gradient is to come back to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import exact, rounding
from small import F64, seeded, sgd
from torch import Tensor, nn

import mlopt
from mlopt import Frozen, GraphError, OneStep, Unrolled, stop

X = torch.linspace(-1.0, 1.5, 24, dtype=F64).reshape(8, 3)


def world(
    method: Any, *, given: Any = None, low: bool = False, up: bool = True, thaws: bool = False
) -> mlopt.Engine:
    """Two levels, of which one freezes the network that it reads."""
    W = mlopt.Variable(seeded(1, lambda: nn.Linear(3, 1)), "w")
    R = mlopt.Variable(nn.Parameter(torch.zeros(1, dtype=F64)), "r")

    @mlopt.problem(over=W, given=[R], optimizer=sgd(W, 0.1), name="low")
    def lower(w, r):
        if low:
            w.bias.requires_grad_(False)
        return ((w(X) * r.exp() - 1) ** 2).mean()

    @mlopt.problem(over=R, given=[given(W) if given else W], optimizer=sgd(R, 0.1), name="up")
    def upper(r, w):
        if up:
            w.requires_grad_(False)
        loss = ((w(X) - 2) ** 2).mean() + (r - 1).square().sum()
        if thaws:
            w.requires_grad_(True)
        return loss

    return mlopt.Engine([lower, upper], hypergrad=method)


def after(engine: mlopt.Engine) -> list[Tensor]:
    engine.run(steps=2, progress=False)
    return [p.detach() for v in engine.graph.variables for p in v.named_parameters().values()]


@pytest.mark.parametrize("method", [OneStep(), OneStep(product=mlopt.Central()), Unrolled(2)])
def test_a_frozen_read_is_refused_with_what_to_write(method: Any) -> None:
    engine = world(method)
    for verb in (engine.step, engine.plan):
        with pytest.raises(GraphError, match=r"up freezes w .*stop\(w\)"):
            verb()
    assert "up freezes w" in str(mlopt.audit(engine))
    for v in engine.graph.variables:
        assert all(p.requires_grad for p in v.named_parameters().values())


@pytest.mark.parametrize("method", [OneStep(), Frozen()])
def test_what_is_minimised_over_is_frozen_before(method: Any) -> None:
    with pytest.raises(GraphError, match="low freezes w, which it is minimised over"):
        world(method, low=True, up=False).step()


def test_where_no_gradient_comes_back_it_may_be_frozen() -> None:
    for method, given in ((Frozen(), None), (OneStep(), stop), (Unrolled(2), stop)):
        found, expected = (after(world(method, given=given, up=up)) for up in (True, False))
        exact(found, expected, rounding(1))


@pytest.mark.parametrize("recompute", [False, True])
def test_a_read_that_is_frozen_for_a_while_is_refused_where_it_is_computed(recompute: bool) -> None:
    engine = world(Unrolled(2, recompute=recompute), thaws=True)
    for verb in (engine.step, lambda: engine.hypergradient(engine.graph.problems[1])):
        with pytest.raises(GraphError, match=r"up freezes what it reads.* and w is .*stop\(w\)"):
            verb()
    assert "up freezes what it reads" in str(mlopt.audit(engine))
    found = after(world(Unrolled(2), given=stop, thaws=True))
    exact(found, after(world(Unrolled(2), given=stop, up=False)), rounding(1))


def test_an_error_of_a_tensor_of_its_own_is_raised_as_it_is() -> None:
    W = mlopt.Variable(nn.Parameter(torch.ones(2, dtype=F64)), "w")

    @mlopt.problem(over=W, optimizer=sgd(W, 0.1))
    def fit(w):
        (w * 2).requires_grad_(False)
        return w.square().sum()

    with pytest.raises(RuntimeError, match="leaf variables"):
        mlopt.Engine([fit]).step()

"""Modules that make a part of themselves where they are first called, as a plain loop has them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from compare import exact, rounding
from small import F64, batches, seeded
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

import mlopt
from mlopt import GraphError

LR = 0.1
ROUNDING = rounding(2 * 60, condition=10)
(X, Y), (U, V) = batches(2)


class Lazy(nn.Linear):
    """Makes something of its own at its first call."""

    def __init__(self, what: str) -> None:
        super().__init__(3, 1)
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "extra"):
            value = torch.full((1,), 0.5, dtype=F64)
            if self.what == "module":
                self.extra = seeded(3, lambda: nn.Linear(1, 1))
            elif self.what == "buffer":
                self.register_buffer("extra", value)
            else:
                self.extra = nn.Parameter(value, requires_grad=self.what == "parameter")
        out = super().forward(x)
        if self.what == "module":
            return self.extra(out)
        if self.what == "buffer":
            with torch.no_grad():
                self.extra.add_(out.mean())
        return out + self.extra


def declared(what: str, levels: int = 2) -> Any:
    net = seeded(1, lambda: Lazy(what))
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)
    W = mlopt.Variable(net, "w")
    R = mlopt.Variable(nn.Parameter(torch.zeros((), dtype=F64)), "r")

    if levels == 1:

        @mlopt.problem(over=W, optimizer=optimizer, name="low")
        def alone(w):
            return mse_loss(w(X), Y)

        return net, optimizer, mlopt.Engine([alone]), R

    @mlopt.problem(over=W, given=[R], optimizer=optimizer, hypergrad=mlopt.OneStep())
    def low(w, r):
        return mse_loss(w(X), Y) * r.exp()

    @mlopt.problem(over=R, given=[W], optimizer=torch.optim.SGD(R.parameters(), lr=LR))
    def up(r, w):
        return mse_loss(w(U), V)

    return net, optimizer, mlopt.Engine([low, up]), R


def follows_a_plain_loop(net: Any, engine: mlopt.Engine, R: mlopt.Variable) -> None:
    """Two steps; buffers are those of the lower objective's evaluation alone."""
    other, r = copy.deepcopy(net), R.tensor.detach().clone()
    for _ in range(2):
        r.requires_grad_()
        before = {k: b.clone() for k, b in other.named_buffers()}
        loss = mse_loss(other(X), Y) * r.exp()
        after = {k: b.clone() for k, b in other.named_buffers()}
        names = [k for k, p in other.named_parameters() if p.requires_grad]
        held = dict(other.named_parameters())
        grads = torch.autograd.grad(loss, [held[k] for k in names], create_graph=True)
        moved = {**held, **{k: held[k] - LR * g for k, g in zip(names, grads, strict=True)}}
        outer = mse_loss(functional_call(other, {**moved, **before}, (U,)), V)
        (slope,) = torch.autograd.grad(outer, r)
        with torch.no_grad():
            r = r - LR * slope
            for k, p in held.items():
                p.copy_(moved[k])
            for k, b in other.named_buffers():
                b.copy_(after[k])
        engine.step()
    exact(R.tensor, r, ROUNDING, scale=1.0)
    exact(net.state_dict(), other.state_dict(), ROUNDING)


@pytest.mark.parametrize("what", ["parameter", "module"])
@pytest.mark.parametrize("levels", [1, 2])
def test_a_new_parameter_is_named_and_trained_once_the_optimizer_holds_it(
    what: str, levels: int
) -> None:
    net, optimizer, engine, R = declared(what, levels)
    name = {"parameter": "extra", "module": "extra.weight"}[what]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for _ in range(2):
        with pytest.raises(GraphError, match=rf"low: w\.{name} is new.*add_param_group"):
            engine.step()
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    more = net.extra.parameters() if what == "module" else [net.extra]
    optimizer.add_param_group({"params": [*more]})
    if levels == 2:
        follows_a_plain_loop(net, engine, R)
    else:
        engine.step()


def test_a_new_frozen_parameter_stands() -> None:
    net, _, engine, R = declared("frozen")
    engine.plan()
    follows_a_plain_loop(net, engine, R)
    assert torch.equal(net.extra, torch.full((1,), 0.5, dtype=F64))


def test_a_new_buffer_is_protected_from_then_on() -> None:
    """What the first call leaves in it is where it begins; the checks' others leave nothing."""
    net, _, engine, R = declared("buffer")
    engine.plan()
    twin = seeded(1, lambda: Lazy("buffer"))
    twin(X)
    exact(net.extra, twin.extra, ROUNDING)
    follows_a_plain_loop(net, engine, R)


def test_the_audit_names_a_new_parameter() -> None:
    _, _, engine, _ = declared("parameter")
    report = mlopt.audit(engine)
    assert [(c.kind, c.refused) for c in report.causes] == [("graph", True)]
    assert "w.extra is new" in report.causes[0].text

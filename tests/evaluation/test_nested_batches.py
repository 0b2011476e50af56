"""Nested tensors as batches, strided ones too, which have no shape."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from compare import exact, near, rounding
from small import F64, sgd
from torch import Tensor, nn

import mlopt

BOUND = rounding(4 * 18, condition=10)


@pytest.fixture(params=[torch.strided, torch.jagged], ids=str)
def batch(request: Any) -> Tensor:
    g = torch.Generator().manual_seed(0)
    rows = [torch.randn(n, 3, generator=g, dtype=F64) for n in (2, 4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nested tensors are a prototype
        return torch.nested.nested_tensor(rows, layout=request.param)


def fit(w: Any, batch: Tensor) -> Tensor:
    return torch.stack([w(rows).tanh().square().mean() for rows in batch.unbind()]).sum()


def levels(batch: Tensor, write: bool = False) -> tuple[mlopt.Engine, nn.Linear, nn.Parameter]:
    torch.manual_seed(0)
    net, r = nn.Linear(3, 1, dtype=F64), nn.Parameter(torch.zeros(1, dtype=F64))
    W, R = mlopt.Variable(net, "w"), mlopt.Variable(r, "r")

    @mlopt.problem(over=W, given=[R], data=[{"x": batch}], optimizer=sgd(W))
    def low(w, r, batch):
        if write:
            batch["x"].mul_(0.5)
        return fit(w, batch["x"]) * r.exp().sum()

    @mlopt.problem(over=R, given=[W], data=[{"x": batch}], optimizer=sgd(R))
    def up(r, w, batch):
        return fit(w, batch["x"])

    return mlopt.Engine([low, up], hypergrad=mlopt.OneStep()), net, r


def test_steps_are_those_of_a_plain_loop(batch: Tensor) -> None:
    engine, net, r = levels(batch)
    w = [p.detach().clone().requires_grad_() for p in net.parameters()]
    s = r.detach().clone().requires_grad_()

    def plain(w: list[Tensor]) -> Tensor:
        return fit(lambda x: x @ w[0].T + w[1], batch)

    slope = torch.autograd.grad(plain(w) * s.exp().sum(), w, create_graph=True)
    ahead = [p - 0.1 * g for p, g in zip(w, slope, strict=True)]
    (hypergradient,) = torch.autograd.grad(plain(ahead), s)
    engine.step()
    exact([*net.parameters()], [p.detach() for p in ahead], BOUND)
    exact(r.detach(), s.detach() - 0.1 * hypergradient, BOUND, scale=1.0)
    near(mlopt.audit(engine).worst, 0.0, 1e-6, scale=1.0, why="differences: rounding / radius")


def test_written_ones_are_refused_and_put_back(batch: Tensor) -> None:
    before = [rows.clone() for rows in batch.unbind()]
    engine = levels(batch, write=True)[0]
    with pytest.raises(mlopt.GraphError, match="in place"):
        engine.step()
    strided = batch.layout is torch.strided
    for rows, then in zip(batch.unbind(), before, strict=True):
        assert torch.equal(rows, then) or not strided


def test_written_ones_that_functions_close_over_are_told(batch: Tensor) -> None:
    torch.manual_seed(0)
    W = mlopt.Variable(nn.Linear(3, 1, dtype=F64), "w")

    @mlopt.problem(over=W, optimizer=sgd(W))
    def low(w):
        batch.mul_(0.5)
        return fit(w, batch.detach().clone())

    engine = mlopt.Engine([low])
    (cause,) = mlopt.audit(engine).causes
    assert cause.kind == "state"
    assert "It changes batch" in cause.text

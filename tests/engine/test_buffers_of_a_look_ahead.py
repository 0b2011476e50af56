"""Which buffers a reader of a lower solution sees, as `docs/graph.md` says."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from compare import exact, kills, rounding
from small import F64, batches, seeded, sgd
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

import mlopt

LR = 0.1
ROUNDING = rounding(3 * 80, condition=10)
DATA = batches(3)
U, V = batches(4)[-1]


def network() -> nn.Module:
    return seeded(1, lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)))


def two_levels(method: Any, **options: Any) -> tuple[nn.Module, mlopt.Engine]:
    """The upper level judges the lower network in eval mode."""
    net = network()
    W = mlopt.Variable(net, "w")
    R = mlopt.Variable(nn.Parameter(torch.zeros(3, dtype=F64)), "r")

    @mlopt.problem(over=W, given=[R], data=DATA, optimizer=sgd(W, LR), hypergrad=method)
    def low(w, r, batch):
        return mse_loss(w(batch[0] * r.exp()), batch[1])

    @mlopt.problem(over=R, given=[W], optimizer=sgd(R, LR))
    def up(r, w):
        return mse_loss(w.eval()(U), V) + r.square().sum()

    return net, mlopt.Engine([low, up], **options)


def plain(steps: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Weights after the steps; buffers before and after, each step from those of the last."""
    net = network()
    before = {k: b.clone() for k, b in net.named_buffers()}
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)
    for x, y in DATA[:steps]:
        optimizer.zero_grad()
        mse_loss(net(x), y).backward()
        optimizer.step()
    return dict(net.named_parameters()), before, dict(net.named_buffers())


def judged(weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
    both = {**weights, **buffers}
    return mse_loss(functional_call(network().eval(), copy.deepcopy(both), (U,)), V).detach()


@pytest.mark.parametrize(
    ("method", "steps"),
    [(mlopt.OneStep(), 1), (mlopt.Unrolled(3), 3), (mlopt.Unrolled(3, recompute=True), 3)],
)
def test_weights_after_the_steps_with_buffers_from_before_them(method: Any, steps: int) -> None:
    net, engine = two_levels(method)
    found = engine.step()["up/loss"]
    weights, before, after = plain(steps)
    exact(found, judged(weights, before), ROUNDING)
    kills(judged(weights, after), judged(weights, before), ROUNDING)
    exact(dict(net.named_parameters()), weights, ROUNDING)
    exact(dict(net.named_buffers()), after, ROUNDING)


def test_sequential_readers_see_what_has_been_committed() -> None:
    _, engine = two_levels(mlopt.Frozen(), schedule=mlopt.Sequential())
    weights, _, after = plain(1)
    exact(engine.step()["up/loss"], judged(weights, after), ROUNDING)

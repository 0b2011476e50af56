"""`Unrolled(init=)` where a part of the network alone is trained (ANIL), against plain loops."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from compare import exact, rounding
from small import F64, assert_same, batches, mlp, state_of
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

import mlopt

LR, META_LR, STEPS = 0.3, 0.5, 3
#: Two meta steps through three steps of a network of 50 operations.
ROUNDING = rounding(2 * STEPS * 100, condition=10)
(X, Y), (U, V) = batches(2)
HEAD = ("2.weight", "2.bias")


def net(seed: int) -> nn.Module:
    made = mlp(seed)
    made.register_parameter("steps", nn.Parameter(torch.tensor([seed, 2]), requires_grad=False))
    return made


@dataclass
class Meta:
    theta: nn.Module
    w: nn.Module
    meta: mlopt.Problem
    engine: mlopt.Engine


def declared(how: str, **options: Any) -> Meta:
    """The head alone is adapted: the optimizer holds no more, or the body is frozen."""
    theta, w = net(1), net(2)
    if how != "optimizer":
        w[0].requires_grad_(False)
    if how == "both frozen":
        theta[0].requires_grad_(False)
    TH, W = mlopt.Variable(theta, "theta"), mlopt.Variable(w, "w")
    held = [p for p in (w[2] if how == "optimizer" else w).parameters() if p.dtype == F64]

    @mlopt.problem(over=W, optimizer=torch.optim.SGD(held, lr=LR), name="adapt",
                   hypergrad=mlopt.Unrolled(STEPS, init=TH, **options))  # fmt: skip
    def adapt(w):
        return mse_loss(w(X), Y)

    learned = [p for p in theta.parameters() if p.requires_grad]

    @mlopt.problem(over=TH, given=[W], optimizer=torch.optim.SGD(learned, lr=META_LR))
    def meta(theta, w):
        return mse_loss(w(U), V)

    return Meta(theta, w, meta, mlopt.Engine([adapt, meta]))


def plain_adapted(theta: dict[str, Tensor], truncate: int | None = None) -> dict[str, Tensor]:
    now, network = dict(theta), net(0)
    for k in range(STEPS):
        loss = mse_loss(functional_call(network, now, (X,)), Y)
        grads = torch.autograd.grad(loss, [now[n] for n in HEAD], create_graph=True)
        now = {**now, **{n: now[n] - LR * g for n, g in zip(HEAD, grads, strict=True)}}
        if truncate is not None and k == STEPS - 1 - truncate:  # the steps so far are constants
            now = {n: t.detach().requires_grad_() if n in HEAD else t for n, t in now.items()}
    return now


HOW = ["optimizer", "frozen", "both frozen"]
OPTIONS: list[dict[str, Any]] = [{}, {"recompute": True}, {"truncate": 2}]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_whole_network_starts_there(how: str, options: dict[str, Any]) -> None:
    m = declared(how, **options)
    theta = {k: p.detach().clone() for k, p in m.theta.named_parameters()}
    learned = [k for k, p in m.theta.named_parameters() if p.requires_grad]
    for _ in range(2):
        theta = {k: t.detach().requires_grad_(k in learned) for k, t in theta.items()}
        now = plain_adapted(theta, options.get("truncate"))
        loss = mse_loss(functional_call(net(0), now, (U,)), V)
        grads = torch.autograd.grad(loss, [theta[k] for k in learned], allow_unused=True)
        expected = {k: g for k, g in zip(learned, grads, strict=True) if g is not None}
        (found,) = m.engine.hypergradient(m.meta).values()
        if how != "both frozen":
            assert {"0.weight", "0.bias"} <= found.keys()
        exact(found, expected, ROUNDING)
        m.engine.step()
        exact(dict(m.w.named_parameters()), now, ROUNDING, what="committed")
        theta = {k: t - META_LR * expected[k] if k in expected else t for k, t in theta.items()}
        exact(dict(m.theta.named_parameters()), theta, ROUNDING, what="theta")


@pytest.mark.parametrize("how", HOW)
def test_a_step_that_fails_puts_the_body_back(how: str) -> None:
    m = declared(how)
    m.engine.step()
    with torch.no_grad():
        m.theta[0].weight.add_(1.0)  # so that the next commit moves the body of w

    def fail(*_: Any) -> None:
        raise RuntimeError("the last commit fails")

    m.meta.optimizer.step = fail
    before = state_of(m.engine)
    with pytest.raises(RuntimeError, match="the last commit fails"):
        m.engine.step()
    assert_same(before, state_of(m.engine))


def test_the_plan_counts_the_copies_of_the_body() -> None:
    m = declared("optimizer")
    held = [*m.w[2].parameters(), *(p for p in m.theta.parameters() if p.requires_grad)]
    rest = [*m.w[0].parameters(), m.w.steps]
    assert m.engine.plan().copies == sum(t.numel() * t.element_size() for t in [*held, *rest])


def test_a_body_that_thaws_is_trained_from_then_on() -> None:
    """It starts at theta as before, and moves: the optimizer holds it."""
    m = declared("frozen")
    m.engine.step()
    m.w[0].requires_grad_(True)
    whole = copy.deepcopy(m.theta)
    real = torch.optim.SGD([p for p in whole.parameters() if p.requires_grad], lr=LR)
    for _ in range(STEPS):
        real.zero_grad()
        mse_loss(whole(X), Y).backward()
        real.step()
    m.engine.step()
    exact(dict(m.w.named_parameters()), dict(whole.named_parameters()), ROUNDING)


def test_a_start_that_lacks_what_is_not_trained_is_refused() -> None:
    m = declared("optimizer")
    m.w.register_parameter("more", nn.Parameter(torch.zeros(2), requires_grad=False))
    with pytest.raises(mlopt.GraphError, match="has nothing where w has 'more', torch.float32"):
        m.engine.step()


def test_the_audit_sees_the_whole_start() -> None:
    report = mlopt.audit(declared("optimizer").engine)
    assert [f.edge for f in report.findings] == ["adapt -> theta", "meta: theta"]
    exact(report.worst, 0.0, 1e-6, scale=1.0)


def test_a_start_is_no_default_of_an_engine() -> None:
    """The edge to theta would be missing, and with it the gradient: a problem's own it has."""
    TH, W = (mlopt.Variable(nn.Parameter(torch.full((3,), x, dtype=F64)), n)
             for x, n in ((2.0, "theta"), (0.0, "w")))  # fmt: skip
    start = mlopt.Unrolled(2, init=TH)
    low = mlopt.problem(over=W, optimizer=torch.optim.SGD(W.parameters(), lr=0.1), name="low")(
        lambda w: ((w - 1) ** 2).sum())  # fmt: skip
    up = mlopt.problem(over=TH, given=[W], name="up")(lambda t, w: w.sum() + 0 * t.sum())
    with pytest.raises(mlopt.GraphError, match=r"reads theta, .* give it to each problem"):
        mlopt.Engine([low, up], hypergrad=start)
    low.hypergrad = start
    found = mlopt.Engine([low, up]).hypergradient(up)[TH][""]
    exact(found, torch.full((3,), 0.8**2, dtype=F64), rounding(10))

"""Buffers of a variable that other problems' evaluations alone write: what is said, and done."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from compare import exact, rounding
from small import batches, seeded, sgd
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

import mlopt
from mlopt import CapabilityWarning

LR = 0.1
ROUNDING = rounding(2 * 2 * 80, condition=10)
(Z, Y), (U, V) = batches(2)


def generator(**options: Any) -> nn.Module:
    return seeded(1, lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, **options)))


@dataclass
class Teaching:
    g: nn.Module
    learner: mlopt.Problem
    engine: mlopt.Engine
    calls: Counter[str]


def teaching(g: nn.Module, *, called: bool = False, signal: bool = False) -> Teaching:
    """A generator teaches: the learner alone calls it; or its teacher does, too."""
    calls: Counter[str] = Counter()
    W, G = mlopt.Variable(seeded(2, lambda: nn.Linear(3, 1)), "w"), mlopt.Variable(g, "g")

    @mlopt.signal(given=[G])
    def made(g):
        return g(Z)

    @mlopt.problem(over=W, given=[made if signal else G], optimizer=sgd(W),
                   hypergrad=mlopt.OneStep())  # fmt: skip
    def learner(w, g):
        calls["learner"] += 1
        return mse_loss(w(g if signal else g(Z)), Y)

    @mlopt.problem(over=G, given=[W], optimizer=sgd(G))
    def teacher(g, w):
        calls["teacher"] += 1
        return mse_loss(w(U), V) + (0.0 * g(Z).sum() if called else 0.0)

    nodes = [made, learner, teacher] if signal else [learner, teacher]
    return Teaching(g, learner, mlopt.Engine(nodes), calls)


def plain(g: nn.Module, steps: int) -> nn.Module:
    """The generator after as many steps of a loop that calls it once a step."""
    w = seeded(2, lambda: nn.Linear(3, 1))
    for _ in range(steps):
        held = dict(w.named_parameters())
        loss = mse_loss(w(g(Z)), Y)
        slopes = torch.autograd.grad(loss, list(held.values()), create_graph=True)
        moved = {k: p - LR * s for (k, p), s in zip(held.items(), slopes, strict=True)}
        outer = mse_loss(functional_call(w, moved, (U,)), V)
        grads = torch.autograd.grad(outer, list(g.parameters()))
        with torch.no_grad():
            for p, slope in zip(g.parameters(), grads, strict=True):
                p.sub_(LR * slope)
            for k, p in held.items():
                p.copy_(moved[k])
    return g


@pytest.mark.parametrize("signal", [False, True], ids=["problem", "signal"])
def test_it_is_said_once_and_costs_no_evaluation(signal: bool) -> None:
    t = teaching(generator(), signal=signal)
    before: dict[str, Tensor] = {k: b.clone() for k, b in t.g.named_buffers()}
    reader = "made" if signal else "learner"
    with pytest.warns(CapabilityWarning, match="teacher: buffers of g") as heard:
        t.engine.plan()
    (said,) = [str(w.message) for w in heard]
    assert f"(1.running_mean, 1.running_var, 1.num_batches_tracked) are written only where " \
           f"{reader} reads it" in said  # fmt: skip
    still = teaching(generator().eval(), signal=signal)
    still.engine.plan()
    assert t.calls == still.calls
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        t.engine.step()
        t.engine.step()
    assert all(torch.equal(b, before[k]) for k, b in t.g.named_buffers())


@pytest.mark.parametrize("way", ["eval", "no statistics", "called"])
def test_what_is_advised_is_as_a_plain_loop(way: str) -> None:
    made = generator(track_running_stats=way != "no statistics").train(way != "eval")
    t, other = teaching(made, called=way == "called"), copy.deepcopy(made)
    for _ in range(2):
        t.engine.step()
    plain(other, 2)
    exact(dict(t.g.state_dict()), dict(other.state_dict()), ROUNDING)


def test_a_lower_network_that_writes_its_own_is_nothing_to_speak_of() -> None:
    """Its reader's writes are not kept, and need not be."""
    net = nn.Sequential(generator(), seeded(3, lambda: nn.Linear(3, 1)))
    W = mlopt.Variable(net, "w")
    R = mlopt.Variable(nn.Parameter(torch.zeros(3, dtype=Z.dtype)), "r")

    @mlopt.problem(over=W, given=[R], optimizer=sgd(W), hypergrad=mlopt.OneStep())
    def low(w, r):
        return mse_loss(w(Z * r.exp()), Y)

    @mlopt.problem(over=R, given=[W], optimizer=sgd(R))
    def up(r, w):
        return mse_loss(w(U), V)

    mlopt.Engine([low, up]).step()
    assert net[0][1].num_batches_tracked == 1


def test_the_audit_lists_it() -> None:
    report = mlopt.audit(teaching(generator()).engine)
    assert [(c.kind, c.where, c.refused) for c in report.causes] == [("writes", "teacher", False)]

"""What the warnings of the audit tell."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from audit.audited import CPU, DIFFERENCES, right, worst
from case_graphs import parameter
from compare import near
from small import F64, bilevel, mlp, seeded
from torch import nn

import mlopt
from mlopt import (
    Central,
    OneSided,
    OneStep,
    audit,
)


def relu_net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 1)).double()


@pytest.mark.parametrize("kinked", [True, False])
def test_kinks(kinked: bool) -> None:
    with torch.random.fork_rng():
        net = relu_net()
    if not kinked:
        net[1] = nn.Softplus()
    report = audit(bilevel(net, hypergrad=OneStep(product=Central(0.5))).engine())
    told = [text for text in report.warnings if text.startswith("Kinks")]
    assert len(told) == kinked
    if kinked:
        assert "Neither is a bug" in told[0]
        assert "fit -> a" in told[0]
        assert report.worst > 1e-2


def test_a_radius_that_is_too_large() -> None:
    report = audit(bilevel(hypergrad=OneStep(product=OneSided(2.0))).engine())
    assert worst(report, "edge") > 1e-2
    (text,) = [t for t in report.warnings if "far from the exact product" in t]
    assert "OneSided(2e-04)" in text
    good = audit(bilevel(hypergrad=OneStep(product=OneSided(2e-4))).engine())
    near(
        worst(good, "edge"),
        0.0,
        10 * 2e-4 / 2,
        scale=1.0,
        why="radius / 2 of the second derivative",
    )
    assert good.warnings == ()


@pytest.mark.parametrize("kind", ["numpy", "python", "counter"])
def test_masks_that_differ(kind: str) -> None:
    calls = [0]
    W, A = (mlopt.Variable(parameter(CPU, i, 8), n) for i, n in enumerate("wa"))

    @mlopt.problem(over=W, given=[A], hypergrad=OneStep(lr=0.1, product=Central()))
    def lower(w, a):
        calls[0] += 1
        scale = {
            "numpy": np.random.rand(),
            "python": random.random(),
            "counter": 1 + 0.1 * (calls[0] % 2),
        }[kind]
        return scale * torch.cosh(w - a).sum()

    @mlopt.problem(over=A, given=[W])
    def upper(a, w):
        return (w**2 * a).sum()

    before = random.getstate(), np.random.get_state()[1].copy()
    report = audit(mlopt.Engine([lower, upper]))
    told = [t for t in report.warnings if t.startswith("lower: evaluated twice at one point")]
    if kind == "counter":
        assert "It changes calls." in told[0]
        assert calls == [0]
    else:  # drawn anew from one seed in each evaluation, as in a step
        assert told == []
        near(report.worst, 0.0, 0.1**2, scale=1.0, why="central difference: radius^2")
    assert before[0] == random.getstate()
    assert (before[1] == np.random.get_state()[1]).all()


def test_dropout_is_no_mask_that_differs() -> None:
    net = nn.Sequential(mlp(1), nn.Dropout(0.5))
    report = audit(bilevel(net, hypergrad=OneStep()).engine())
    right(report.worst, 10 * DIFFERENCES)
    assert report.warnings == ()


def test_no_radius_is_named_where_none_helps() -> None:
    """Samples weighted by their losses, as constants: that is off by as much at each radius."""
    x = torch.linspace(-1, 1.5, 24, dtype=F64).reshape(8, 3)
    y = x.sum(1, keepdim=True).sin() + 1
    weigh = seeded(2, lambda: nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1))).to(F64)
    for p in weigh[2].parameters():
        nn.init.zeros_(p)
    W, A = (
        mlopt.Variable(seeded(1, lambda: nn.Linear(3, 1)).to(F64), "w"),
        mlopt.Variable(weigh, "a"),
    )

    @mlopt.problem(over=W, given=[A], hypergrad=OneStep(lr=0.1, product=Central()))
    def lower(w, a):
        each = (w(x) - y) ** 2
        return (a(each.detach()).sigmoid() * each).mean()

    @mlopt.problem(over=A, given=[W])
    def upper(a, w):
        return w(x).square().mean()

    report = audit(mlopt.Engine([lower, upper]))
    assert worst(report, "edge") > 1e-2
    (text,) = [t for t in report.warnings if "far from the exact product" in t]
    assert "No radius helps" in text
    assert "Exact()" in text
    assert "Take Central" not in text

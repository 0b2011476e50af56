"""The audit changes nothing: neither the engine nor the run around it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from audit.audited import DIFFERENCES, right
from small import assert_same, batches, bilevel, state_of
from torch import nn

from mlopt import (
    Exact,
    OneSided,
    OneStep,
    audit,
)


def normalised(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_nothing_is_changed(dtype: torch.dtype) -> None:
    def data(seed: int) -> list:
        return [(x.to(dtype), y.to(dtype)) for x, y in batches(5, seed=seed)]

    made = bilevel(
        normalised(1).to(dtype),
        train=data(1),
        valid=data(2),
        hypergrad=OneStep(),
        optimizer=lambda v: torch.optim.Adam(v.parameters(), lr=0.01),
    )
    made.A.value.data = made.A.value.data.to(dtype)
    engine = made.engine(seed=3)
    engine.run(steps=2, progress=False)
    twin = copy.deepcopy(engine.graph.variables[0].value.state_dict())
    before = state_of(engine)
    gradient = engine.hypergradient(made.upper)
    places = [p.data_ptr() for v in engine.graph.variables for p in v.parameters()]
    feed = engine._feed.passes
    report = audit(engine)
    right(report.worst, 10 * DIFFERENCES)
    assert_same(before, state_of(engine))
    assert_same(twin, engine.graph.variables[0].value.state_dict())
    again = engine.hypergradient(made.upper)
    for v, part in gradient.items():
        assert_same(part, again[v])
    assert places == [p.data_ptr() for v in engine.graph.variables for p in v.parameters()]
    assert feed == engine._feed.passes
    assert torch.get_default_dtype() is torch.float32
    engine.run(steps=2, progress=False)


@pytest.mark.parametrize("product", [Exact(), OneSided(2.0)])  # of which other radii are tried
def test_an_audit_between_steps_leaves_the_run_alone(product: Any) -> None:
    def losses(audited: bool) -> list:
        net = normalised(1).double()
        engine = bilevel(net, hypergrad=OneStep(product=product)).engine(seed=5)
        out = []
        for _ in range(7):
            if audited:
                audit(engine, directions=1)
            out.append(engine.step()["tune/loss"].item())
        return out

    assert losses(True) == losses(False)

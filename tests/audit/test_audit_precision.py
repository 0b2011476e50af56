"""The audit of engines in float32."""

from __future__ import annotations

import pytest
import torch
from audit.audited import right
from compare import exact, rounding
from small import batches, bilevel, mlp
from torch import nn

import mlopt
from mlopt import (
    OneStep,
    audit,
)


def test_float32_engines() -> None:
    """The mathematics in float64, and what float32 makes of it."""
    scale = torch.tensor([1.0, 2.0, 0.5])  # a constant that the functions close over
    W = mlopt.Variable(nn.Linear(3, 1), "w")
    A = mlopt.Variable(nn.Parameter(torch.zeros(3)), "a")
    data = [(x.float(), y.float()) for x, y in batches(3)]

    @mlopt.problem(over=W, given=[A], data=data, hypergrad=OneStep(lr=0.3))
    def lower(w, a, batch):
        x, y = batch
        return torch.tanh(w(x * scale * a.exp()) - y).square().mean()

    @mlopt.problem(over=A, given=[W], data=data)
    def upper(a, w, batch):
        x, y = batch
        return (w(x @ scale.diag()) - y).square().mean() + a.square().sum()

    report = audit(mlopt.Engine([lower, upper]))
    assert report.precision == "float64"
    right(report.worst)
    assert report.rounding > 0
    exact(report.rounding, 0.0, rounding(4 * 50, condition=4, dtype=torch.float32), scale=1.0)
    assert scale.dtype is W.value.weight.dtype is torch.float32


def test_functions_that_only_run_in_float32() -> None:
    made = bilevel(
        mlp().float(), hypergrad=OneStep(), train=[(torch.randn(4, 3), torch.randn(4, 1))]
    )
    made.A.value.data = made.A.value.data.float()
    made.train[0] = tuple(t.float() for t in made.train[0])

    @mlopt.problem(over=made.A, given=[made.W], data=made.train)
    def upper(a, w, batch):
        x, y = batch
        hidden = x.float() @ torch.ones(3, 3, dtype=torch.float32)
        return (w(hidden.to(torch.float32)) - y).square().mean() + a.square().sum()

    engine = mlopt.Engine([made.lower, upper])
    report = audit(engine)
    assert report.precision == "float32"
    assert any("do not run in float64" in text for text in report.warnings)
    # at radii of 1e-2, of values 400 times as large as their slopes
    right(report.worst, rounding(10, condition=400, dtype=torch.float32) / 1e-2)
    assert "compared in float32" in str(report)


@pytest.mark.parametrize("error", [AssertionError, ValueError, KeyError])
def test_functions_that_refuse_float64_by_whatever_error(error: type[Exception]) -> None:
    made = bilevel(mlp().float(), hypergrad=OneStep(), train=[(torch.ones(4, 3), torch.ones(4, 1))])
    made.A.value.data = made.A.value.data.float()

    @mlopt.problem(over=made.A, given=[made.W], data=made.train)
    def upper(a, w, batch):
        if batch[0].dtype is not torch.float32:
            raise error("float32 alone")
        return w(batch[0]).square().mean() + a.square().sum()

    report = audit(mlopt.Engine([made.lower, upper]))
    assert report.precision == "float32"
    assert any("do not run in float64" in text for text in report.warnings)

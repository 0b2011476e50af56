"""The audit of engines in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from audit.audited import right
from compare import exact, near, rounding
from small import batches, bilevel, mlp, sgd
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

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


class _Doubled(torch.autograd.Function):
    """x, with twice its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        del ctx
        return 2 * grads[0]


CASTS: dict[str, Callable[[Tensor], Tensor]] = {
    "float": lambda h: h.float(),
    "dtype": lambda h: h.sum((), dtype=torch.float32) + h.softmax(-1, dtype=torch.float32),
    "back": lambda h: h.float().to(h.dtype),
}
SEES = "errors from 5 percent can be told in float32"


def classifier(
    cast: Callable[[Tensor], Tensor],
    method: Any,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    metric: Callable[[Tensor], Tensor] = torch.clone,
) -> mlopt.Engine:
    """Weights of examples; logits are cast before the loss, as is usual."""
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(8, 3, generator=g).to(dtype), torch.randint(3, (8,), generator=g)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
    W = mlopt.Variable(net, "w")
    A = mlopt.Variable(nn.Parameter(torch.zeros(8, dtype=dtype)), "a")

    @mlopt.problem(over=W, given=[A], optimizer=sgd(W, 0.5), hypergrad=method)
    def train(w, a):
        return (cross_entropy(cast(w(x)), y, reduction="none") * a.exp()).mean()

    @mlopt.problem(over=A, given=[W], optimizer=sgd(A, 0.1))
    def valid(a, w):
        loss = cross_entropy(cast(w(1.3 * x)), y) + 0.01 * a.square().sum()
        return loss, {"cast": metric(loss)}

    return mlopt.Engine([train, valid])


@pytest.mark.parametrize("steps", [0, 30])
@pytest.mark.parametrize("method", [OneStep(), OneStep(product=mlopt.Central())], ids=str)
@pytest.mark.parametrize("cast", CASTS)
def test_casts_inside_of_functions_are_compared_in_float32(
    cast: str, method: Any, steps: int
) -> None:
    """At several seeds, for the noise of float32 is what once made up causes."""
    for seed in range(4):
        engine = classifier(CASTS[cast], method, seed)
        engine.run(steps=steps, progress=False)
        report = audit(engine)
        assert report.precision == "float32"
        (text,) = report.warnings
        assert "train and valid (a cast" in text
        assert not report.causes
        near(report.worst, 0.0, 1e-2, why=SEES, scale=1.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_casts_of_other_dtypes_to_float32(dtype: torch.dtype) -> None:
    report = audit(classifier(CASTS["float"], OneStep(), dtype=dtype))
    assert report.precision == "float32"
    assert {c.kind for c in report.causes} <= {"precision"}
    near(report.worst, 0.0, 1e-2, why=SEES, scale=1.0)


def test_casts_to_bfloat16_say_nothing_of_derivatives() -> None:
    report = audit(classifier(lambda h: h.bfloat16().to(h.dtype), OneStep()))
    assert report.precision == "bfloat16"
    assert {c.kind for c in report.causes} <= {"precision"}


@pytest.mark.parametrize("method", [OneStep(), OneStep(product=mlopt.Central())], ids=str)
def test_wrong_functions_are_found_beside_casts(method: Any) -> None:
    report = audit(classifier(lambda h: _Doubled.apply(h).float(), method))
    assert report.precision == "float32"
    assert ("backward", "train") in {(c.kind, c.where) for c in report.causes}
    assert report.worst > 0.1
    report = audit(classifier(lambda h: h.float() + h.detach().tanh(), method))
    assert {c.kind for c in report.causes} & {"detached", "backward"}


@pytest.mark.parametrize("metric", [lambda loss: loss.float(), lambda loss: loss.detach().half()])
def test_casts_of_metrics_do_no_harm(metric: Callable[[Tensor], Tensor]) -> None:
    report = audit(classifier(torch.clone, OneStep(), metric=metric))
    assert report.precision == "float64"
    right(report.worst)

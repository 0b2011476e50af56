"""The metrics and signals of a step."""

from __future__ import annotations

import torch
from compare import exact, rounding
from engine.metered import metrics_case
from small import F64, batches, mlp, sgd
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import mlopt


def test_metrics_are_those_of_the_base_evaluation():
    """D18 and D30: a dict of metrics, though differences evaluate the objective twice more."""
    calls, engine = metrics_case()
    engine.hypergradient(engine.graph.problems[0])
    calls.clear()
    metrics = engine.step()
    assert set(metrics) == {
        f"{p}/{n}" for p in ("fit", "tune") for n in ("loss", "gradient_norm")
    } | {"fit/size", "fit/call", "fit/own loss"}
    assert len(calls) == 3
    assert metrics["fit/call"] == 1
    assert metrics["fit/own loss"] == metrics["fit/loss"]
    assert all(not m.requires_grad for m in metrics.values() if isinstance(m, Tensor))
    W = engine.graph.problems[0].over[0]
    norm = torch.cat([p.grad.flatten() for p in W.parameters()]).norm()
    exact(metrics["fit/gradient_norm"], norm, rounding(21 + 4))
    assert set(engine.signals["norms"]) == {"first", "all"}
    assert not engine.signals["norms"]["first"].requires_grad


def test_signals_may_be_tuples_with_whole_numbers_in_them():
    W = mlopt.Variable(mlp(), "w")
    A = mlopt.Variable(nn.Parameter(torch.zeros(3, dtype=F64)), "a")
    data = batches(3)

    @mlopt.problem(over=W, given=[A], data=data, optimizer=sgd(W), hypergrad=mlopt.OneStep())
    def fit(w, a, batch):
        return mse_loss(w(batch[0] * a.exp()), batch[1])

    @mlopt.signal(given=[W], data=data)
    def best(w, batch):
        out = w(batch[0])
        return out, out.argmax(), out > 0

    @mlopt.problem(over=A, given=[best], optimizer=sgd(A))
    def tune(a, best):
        out, index, positive = best
        assert index.dtype == torch.int64
        assert positive.dtype == torch.bool
        return out[index].square().sum() + (out * positive).sum() + a.square().sum()

    engine = mlopt.Engine([fit, best, tune])
    assert engine.hypergradient(tune)[A][""].abs().max() > 0
    engine.step()

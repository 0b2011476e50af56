"""The metrics and signals of a step."""

from __future__ import annotations

import numpy as np
import pytest
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


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype", "ignore:.*quantize")
def test_tensors_and_numbers_that_cannot_be_read_are_left_out_and_said():
    """At the log and in the means of an epoch; what is sparse is read, filled up."""
    W = mlopt.Variable(nn.Parameter(torch.ones(2, dtype=F64)), "w")
    ones, seen = torch.ones(2), {}
    metrics = {
        "sparse": torch.tensor([0.0, 3.0]).to_sparse(),
        "one": torch.tensor(2.0).to_sparse(),
        "large": 10**300,
        "long": np.ones(1, dtype=np.longdouble),
        "huge": 10**400,
        "huge ones": [1, 10**400],
        "object": np.array([print]),
        "meta": torch.zeros((), device="meta"),
        "metas": torch.zeros(2, device="meta"),
        "quantized": torch.quantize_per_tensor(ones[0], 0.1, 0, torch.qint8),
        "nested": torch.nested.nested_tensor([ones, ones[:1]]),
        "jagged": torch.nested.nested_tensor([ones, ones[:1]], layout=torch.jagged),
        "sparse matrix": torch.eye(2).to_sparse(),
    }

    @mlopt.problem(over=W, data=[ones], optimizer=sgd(W))
    def fit(w, batch):
        return w.square().sum(), metrics

    class Seen(mlopt.Callback):
        def on_log(self, engine, metrics):
            seen["log"] = metrics

        def on_epoch(self, engine, metrics):
            seen["epoch"] = metrics

    with pytest.warns(mlopt.CapabilityWarning, match="left out of the logs") as warned:
        mlopt.Engine([fit]).run(epochs=1, callbacks=[Seen()], progress=False)
    own = {"fit/loss", "fit/gradient_norm"}
    logged = {name[4:]: value for name, value in seen["log"].items() if name not in own}
    assert logged == {"sparse": [0.0, 3.0], "one": 2.0, "large": 10**300, "long": [1.0]}
    assert seen["epoch"].keys() == {"fit/loss", "fit/one", "fit/large"}
    said = str(warned[0].message)
    for name, kind in {
        "huge": "int beyond the range of floats", "huge ones": "list", "meta": "meta Tensor",
        "object": "ndarray of shape (1,)", "quantized": "quantized Tensor",
        "nested": "nested Tensor", "sparse matrix": "Tensor of shape (2, 2)",
    }.items():  # fmt: skip
        assert f"fit/{name} (a {kind})" in said

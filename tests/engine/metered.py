"""Two levels and a signal with metrics of every kind."""

from __future__ import annotations

import torch
from small import F64, batches, mlp, sgd
from torch import nn
from torch.nn.functional import mse_loss

import mlopt


def metrics_case(**options):
    W = mlopt.Variable(mlp(), "w")
    A = mlopt.Variable(nn.Parameter(torch.tensor([0.1, -0.2, 0.3], dtype=F64)), "a")
    calls = []

    @mlopt.problem(
        over=W,
        given=[A],
        data=batches(3, seed=1),
        optimizer=sgd(W),
        hypergrad=mlopt.OneStep(product=mlopt.Central(radius=0.5)),
    )
    def fit(w, a, batch):
        calls.append(1)
        out = w(batch[0] * a.exp())
        loss = mse_loss(out, batch[1])
        return loss, {"size": out.square().mean(), "call": len(calls), "own loss": loss}

    @mlopt.signal(given=[W])
    def norms(w):
        return {"first": w[0].weight.norm(), "all": torch.stack([p.norm() for p in w.parameters()])}

    @mlopt.problem(over=A, given=[W, norms], data=batches(4, seed=2), optimizer=sgd(A))
    def tune(a, w, norms, batch):
        return mse_loss(w(batch[0]), batch[1]) + a.square().sum() + 0.01 * norms["first"]

    return calls, mlopt.Engine([fit, norms, tune], **options)

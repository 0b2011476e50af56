"""`Engine.hypergradient`: what it returns, and by which names."""

from __future__ import annotations

import torch
from compare import exact
from oracles import sweep_rounding
from small import F64, batches, mlp, sgd
from torch import nn
from torch.nn.functional import mse_loss

import mlopt


def test_hypergradient_for_a_list_of_variables_and_by_parameter_name():
    A, B = (mlopt.Variable(nn.Parameter(torch.ones(3, dtype=F64)), n) for n in "ab")
    N = mlopt.Variable(nn.Linear(1, 1).double(), "n")
    W = mlopt.Variable(mlp(), "w")
    train, valid = batches(2, seed=1), batches(2, seed=2)

    @mlopt.problem(over=W, given=[[A, B]], data=train, optimizer=sgd(W), hypergrad=mlopt.OneStep())
    def fit(w, ab, batch):
        return mse_loss(w(batch[0] * ab[0]), batch[1] * ab[1].mean())

    @mlopt.problem(over=[A, N, B], given=[W], data=valid)
    def tune(abn, w, batch):
        a, n, b = abn
        return mse_loss(n(w(batch[0] * a)), batch[1]) + b[0] ** 2

    engine = mlopt.Engine([fit, tune])
    found = engine.hypergradient(tune)
    assert list(found) == [A, N, B]
    assert set(found[A]) == {""}
    assert set(found[N]) == {"weight", "bias"}
    a, b = (v.value.detach().clone().requires_grad_() for v in (A, B))
    values = dict(W.value.named_parameters())
    x, y = train[0]
    loss = mse_loss(W.value(x * a), y * b.mean())
    gradient = torch.autograd.grad(loss, list(values.values()), create_graph=True)
    ahead = {k: p - 0.1 * g for (k, p), g in zip(values.items(), gradient, strict=True)}
    x, y = valid[0]
    out = N.value(torch.func.functional_call(W.value, ahead, (x * a,)))
    leaves = [a, N.value.weight, N.value.bias, b]
    expected = torch.autograd.grad(mse_loss(out, y) + b[0] ** 2, leaves)
    flat = [found[A][""], found[N]["weight"], found[N]["bias"], found[B][""]]
    exact(flat, list(expected), sweep_rounding(1, condition=20))
    own = engine.hypergradient(fit)[W]
    assert set(own) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert all(not g.requires_grad for g in [*flat, *own.values()])

"""Law: the first check refuses what is given other memory, and puts back what was written."""

from __future__ import annotations

import copy

import pytest
import torch
from small import F64, sgd
from torch import nn

import mlopt

X = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=F64)


def clamped(w, x):
    for p in w.parameters():
        p.data = p.data.clamp(-0.1, 0.1)
    return w(x).square().mean()


def halved(w, x):
    return w.float()(x.float()).square().mean()


def batch_clamped(w, x):
    x.data = x.data.clamp(-0.1, 0.1)
    return w(x).square().mean()


def past_the_argument(net):
    def function(w, x):
        own[0].data.mul_(2)  # the variable's own tensor, not the one that is given
        raise KeyError("mine")

    own = [net.weight]
    return function


@pytest.mark.parametrize("what", ["weight", "type", "batch", "raises"])
def test_what_is_refused_is_as_before(what):
    net, data = nn.Linear(2, 1, dtype=F64), [X.clone()]
    W = mlopt.Variable(net, "w")
    functions = {
        "weight": clamped,
        "type": halved,
        "batch": batch_clamped,
        "raises": past_the_argument(net),
    }
    kept, held = copy.deepcopy(net.state_dict()), dict(net.named_parameters())
    addresses = {k: p.data_ptr() for k, p in held.items()}
    p = mlopt.problem(over=W, data=data, optimizer=sgd(W, 0.1), name="p")(functions[what])
    wanted = KeyError if what == "raises" else mlopt.GraphError
    with pytest.raises(wanted):
        mlopt.Engine([p]).step()
    assert all(torch.equal(net.state_dict()[k], kept[k]) for k in kept)
    assert all(net.state_dict()[k].dtype == F64 for k in kept)
    assert {k: p.data_ptr() for k, p in net.named_parameters()} == addresses
    assert torch.equal(data[0], X)

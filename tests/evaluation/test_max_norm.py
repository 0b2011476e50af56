"""An embedding with `max_norm`, which writes the weight that it looks up, and what is advised."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from compare import exact, rounding
from small import F64, seeded
from torch import nn

import mlopt
from mlopt import GraphError

INDEX = torch.tensor([[0, 1], [1, 3]])
ROUNDING = rounding(60)
KINDS = {"embedding": nn.Embedding, "embedding_bag": nn.EmbeddingBag}


def words(kind: str, **options) -> nn.Module:
    return seeded(1, lambda: nn.Sequential(KINDS[kind](4, 3, **options), nn.Linear(3, 1)))


def over(w: mlopt.Variable, fn, given=(), **options) -> mlopt.Problem:
    optimizer = torch.optim.SGD(w.parameters(), lr=0.1)
    return mlopt.problem(over=w, given=[*given], optimizer=optimizer, **options)(fn)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", [0.1, 100.0], ids=["shortens", "none is long"])
def test_it_is_named_and_a_copy_is_shortened(kind: str, norm: float) -> None:
    net = words(kind, max_norm=norm)
    before = net[0].weight.clone()
    fit = over(mlopt.Variable(net, "w"), lambda w: w(INDEX).square().mean(), name="fit")
    call = re.escape(f"F.{kind}(i, w.0.weight.clone(), max_norm={norm})")
    with pytest.raises(GraphError, match=rf"fit writes w\.0\.weight.*max_norm={norm}.*{call}"):
        mlopt.Engine([fit]).step()
    assert torch.equal(net[0].weight, before)

    def copied(w):
        look = getattr(F, kind)
        return w[1](look(INDEX, w[0].weight.clone(), max_norm=norm)).square().mean()

    plain, net = words(kind), words(kind)
    real = torch.optim.SGD(plain.parameters(), lr=0.1)
    engine = mlopt.Engine([over(mlopt.Variable(net, "w"), copied, name="fit")])
    for _ in range(2):
        real.zero_grad()
        copied(plain).backward()
        real.step()
        engine.step()
    exact(dict(net.named_parameters()), dict(plain.named_parameters()), ROUNDING)


def halves(w):
    with torch.no_grad():
        w.mul_(0.5)
    return w.square().sum()


def test_who_else_reads_what_is_written() -> None:
    """They are named; nobody is where there is none."""
    W = mlopt.Variable(nn.Parameter(torch.ones(3, dtype=F64)), "w")
    R = mlopt.Variable(nn.Parameter(torch.ones(3, dtype=F64)), "r")
    alone = r"^low writes w in place\. Compute a new tensor"
    with pytest.raises(GraphError, match=alone):
        mlopt.Engine([over(W, halves, name="low")]).step()
    up = over(R, lambda r, w: (r - w).square().sum(), [W], name="up")
    with pytest.raises(GraphError, match=r"^low writes w in place, which up reads as well\. Comp"):
        mlopt.Engine([over(W, halves, name="low"), up], hypergrad=mlopt.Frozen()).step()

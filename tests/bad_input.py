"""Two levels to be declared wrongly, for the tests of what is refused before any training."""

from __future__ import annotations

import pytest
import torch
from small import F64, assert_same, sgd, state_of
from torch import nn

import mlopt
from mlopt import GraphError


def tensor(size: int = 3) -> nn.Parameter:
    return nn.Parameter(torch.linspace(0.5, 1.0, size, dtype=F64))


W = mlopt.Variable(tensor(), "w")
V = mlopt.Variable(tensor(), "v")
A = mlopt.Variable(tensor(), "a")


def over_w(**options):
    """A lower problem over W that reads A."""
    options.setdefault("optimizer", sgd(W))
    return mlopt.problem(over=W, given=[A], **options)(fit)


def fit(w, a):
    return (w * a - 1).square().sum()


def tune(a, w):
    return (w - a).square().sum()


def over_a(**options):
    return mlopt.problem(over=A, given=[W], optimizer=sgd(A), **options)(tune)


def refused_at_the_first_step(problems, *, error=GraphError, match, **options):
    """The engine is made; its first step, and a hypergradient, raise; nothing has moved."""
    engine = mlopt.Engine(problems, hypergrad=mlopt.Frozen(), **options)
    before = state_of(engine)
    for attempt in (
        engine.step,
        lambda: engine.hypergradient(engine.graph.problems[-1]),
        lambda: engine.run(steps=1, progress=False),
    ):
        with pytest.raises(error, match=match):
            attempt()
        assert_same(before, state_of(engine))

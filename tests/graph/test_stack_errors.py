"""Members that cannot be stacked: named as they are declared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from evaluation.stacked import SGD, net_problem
from small import F64, batches, mlp
from torch import nn
from torch.nn.functional import mse_loss

import mlopt
from mlopt import Frozen, OneStep


def test_what_is_declared_otherwise_is_named():
    A = mlopt.Variable(nn.Parameter(torch.zeros(3, dtype=F64)), "a")
    B = mlopt.Variable(nn.Parameter(torch.zeros(4, dtype=F64)), "b")
    given = lambda w, a, batch: mse_loss(w(batch[0]), batch[1]) + a.sum()  # noqa: E731
    stream = mlopt.Stream(batches(2))
    signal = mlopt.signal(given=[A], name="s")(lambda a: a)
    cases: list[tuple[str, list[Any]]] = [
        ("differ in kind", [net_problem(1), signal]),
        ("differ in start: 0 and 1", [net_problem(1), net_problem(2, start=1)]),
        ("differ in every: 1 and 2", [net_problem(1), net_problem(2, every=2)]),
        ("differ in repeat: 1 and 3", [net_problem(1), net_problem(2, repeat=3)]),
        ("differ in having an optimizer", [net_problem(1), net_problem(2, optimizer=None)]),
        ("differ in arguments", [net_problem(1), net_problem(2, net=mlp(features=4))]),
        ("differ in arguments", [net_problem(1), net_problem(2, given, given=[A])]),
        (
            "differ in arguments",
            [net_problem(1, given, given=[A]), net_problem(2, given, given=[B])],
        ),
        (
            "differ in arguments",
            [net_problem(1, given, given=[A]), net_problem(2, given, given=[mlopt.stop(A)])],
        ),
        (
            "differ in arguments",
            [net_problem(1, given, given=[A]), net_problem(2, given, given=[[A]])],
        ),
        ("differ in data", [net_problem(1), net_problem(2, lambda w: w[0].bias.sum(), data=None)]),
        ("share a stream", [*(net_problem(j, data=stream) for j in (1, 2)), net_problem(3)]),
        ("listed twice", [signal, signal]),
        ("holds a Variable", [A, B]),
    ]
    for message, members in cases:
        with pytest.raises(mlopt.GraphError, match=message):
            mlopt.Stack(members)


def test_members_have_one_method():
    problems = [net_problem(1, hypergrad=OneStep()), net_problem(2, hypergrad=OneStep(0.1))]
    with pytest.raises(mlopt.GraphError, match="differ in method: OneStep.. and OneStep"):
        mlopt.Engine([mlopt.Stack(problems)])


@pytest.mark.parametrize("through", [False, True])
def test_members_do_not_read_one_another(through):
    W = [mlopt.Variable(nn.Parameter(torch.ones(3, dtype=F64)), f"w{j}") for j in range(2)]
    signals = [mlopt.signal(given=[w], name=f"s{w.name}")(lambda w: 2 * w) for w in W]
    read = [signals[1], signals[0]] if through else [W[1], W[0]]

    def player(j: int) -> mlopt.Problem:
        made = mlopt.problem(
            over=W[j], given=[read[j]], optimizer=SGD([W[j].value], lr=0.1), name=f"p{j}"
        )
        return made(lambda w, other: (w * other).sum())

    entries = [*signals, mlopt.Stack([player(0), player(1)])]
    with pytest.raises(mlopt.GraphError, match="do not read one another"):
        mlopt.Engine(entries if through else entries[2:], hypergrad=Frozen())

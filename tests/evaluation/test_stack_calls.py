"""Stacked learners: what a call is, and what the plan counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from evaluation.stacked import ROUNDING, SGD, Net, close, images, learners
from small import F64, seeded, state_of
from torch import nn
from torch.nn.functional import cross_entropy

import mlopt
from mlopt import Central, Exact, OneSided, OneStep


@dataclass
class Calls:
    """Counts the calls of modules of one type."""

    count: int = 0

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        self.count += isinstance(module, Net)


@pytest.fixture
def calls():
    counter = Calls()
    hook = nn.modules.module.register_module_forward_pre_hook(counter)
    yield counter
    hook.remove()


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize(("product", "more"), [(Exact(), 0), (Central(), 4), (OneSided(), 2)])
def test_a_stack_is_called_once_and_the_plan_counts_every_member(k, product, more, calls):
    made = learners(k)
    engine = made.engine(True, hypergrad=OneStep(product=product))
    plan = engine.plan()
    engine.step()
    calls.count, before = 0, engine._evaluator.count.copy()
    engine.step()
    # first, labels, second (two calls of its network), last (one for each of its networks)
    assert calls.count == 4 + k + (more // 2) * 3
    assert plan.evaluations == (engine._evaluator.count - before).total() == k * (3 + more) + 1


def test_uppers_of_a_stack_pull_back_their_own_lowers_together(calls):
    """K independent problems of two levels: one call for each level and displaced evaluation."""

    def make(stacked: bool) -> Any:
        lowers, uppers = [], []
        for j in range(4):
            W = mlopt.Variable(seeded(j, Net), f"w{j}")
            A = mlopt.Variable(nn.Parameter(torch.tensor([0.1 * j, -0.2], dtype=F64)), f"a{j}")
            train, valid = images(3, j), images(3, 9 + j)

            @mlopt.problem(over=W, given=[A], data=train, optimizer=SGD(W.parameters(), lr=0.1))
            def lower(w, a, batch):
                return cross_entropy(w(batch[0], a), batch[1])

            @mlopt.problem(over=A, given=[W], data=valid, optimizer=SGD([A.value], lr=0.1))
            def upper(a, w, batch):
                return cross_entropy(w(batch[0], a), batch[1])

            lowers.append(lower)
            uppers.append(upper)
        entries = [mlopt.Stack(lowers), mlopt.Stack(uppers)] if stacked else [*lowers, *uppers]
        return mlopt.Engine(entries, hypergrad=OneStep(product=Central()))

    plain, stacked = make(False), make(True)
    for _ in range(3):
        close(stacked.step(), plain.step(), ROUNDING / 0.01)
    close(state_of(stacked), state_of(plain), ROUNDING / 0.01)
    calls.count = 0
    stacked.step()
    assert calls.count == 2 + 2


@pytest.mark.parametrize("product", [Exact(), Central(), OneSided()])
def test_one_member_alone_may_be_pulled_back(product, calls):
    """The others go along, where evaluations are displaced, and are not counted."""

    def make(stacked: bool) -> mlopt.Engine:
        A = mlopt.Variable(nn.Parameter(torch.tensor([0.1, -0.2], dtype=F64)), "a")
        W = [mlopt.Variable(seeded(j, Net), f"w{j}") for j in range(3)]

        def learner(w: mlopt.Variable) -> mlopt.Problem:
            @mlopt.problem(over=w, given=[A], data=data, optimizer=SGD(w.parameters(), lr=0.1))
            def lower(w, a, batch):
                return cross_entropy(w(batch[0], a), batch[1])

            return lower

        @mlopt.problem(over=A, given=[W[1]], data=images(3, 2), optimizer=SGD([A.value], lr=0.1))
        def upper(a, w, batch):
            return cross_entropy(w(batch[0], a), batch[1])

        data = mlopt.Stream(images(3, 1))
        lowers = [learner(w) for w in W]
        entries = [mlopt.Stack(lowers)] if stacked else lowers
        return mlopt.Engine([*entries, upper], hypergrad=OneStep(product=product))

    plain, stacked = make(False), make(True)
    for _ in range(3):
        close(stacked.step(), plain.step(), ROUNDING / 0.01)
    close(state_of(stacked), state_of(plain), ROUNDING / 0.01)
    calls.count, before = 0, stacked._evaluator.count.copy()
    planned = stacked.plan().per_node
    stacked.step()
    counted = stacked._evaluator.count - before
    assert {n: f for n, (f, _) in planned.items()} == dict(counted)
    assert calls.count == 2 + product.cost.evaluations

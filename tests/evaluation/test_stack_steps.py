"""Stacked learners: purity, seeds, and a step that goes wrong."""

from __future__ import annotations

import copy

import pytest
from evaluation.stacked import close, learners, net_problem
from small import assert_same, seeded, state_of
from torch import nn
from torch.nn.functional import mse_loss

import mlopt
from mlopt import Central, Exact, Frozen, OneSided, OneStep

# Randomness.


@pytest.mark.parametrize("product", [Exact(), Central(), OneSided()])
def test_twice_gives_the_same_bits_and_changes_nothing(product):
    made = learners(3, noise=0.3)
    engine = made.engine(True, hypergrad=OneStep(product=product))
    for _ in range(2):
        engine.step()
    before = state_of(engine, *made.memories)
    first = [engine.hypergradient(p) for p in engine.graph.problems]
    second = [engine.hypergradient(p) for p in engine.graph.problems]
    for a, b in zip(first, second, strict=True):
        assert_same(list(a.values()), list(b.values()))
    assert_same(before, state_of(engine, *made.memories))


def test_members_draw_different_numbers_and_the_seed_decides_them():
    def losses(seed: int) -> list[float]:
        made = learners(2, noise=0.5)
        made.nets[1].load_state_dict(made.nets[0].state_dict())
        for p in made.first:
            p.over[0].value.load_state_dict(made.nets[0].state_dict())
        made.last.over[1].value.data.copy_(made.last.over[0].value.data)
        metrics = made.engine(True, hypergrad=Frozen(), seed=seed).step()
        return [metrics[f"first#{j}/loss"].item() for j in (1, 2)]

    assert losses(1) == losses(1) != losses(2)
    assert losses(1)[0] != losses(1)[1]


# A step that goes wrong.


@pytest.mark.parametrize("kind", ["nan", "exception"])
def test_a_step_that_fails_commits_nothing_of_any_member(kind):
    bad = {"now": False}

    def learner(j: int) -> mlopt.Problem:
        def loss(w, batch):
            if bad["now"] and kind == "exception":
                raise RuntimeError("injected")
            value = mse_loss(w(batch[0]), batch[1])
            return value * batch[0].new_tensor(float("nan")) if bad["now"] else value

        net = seeded(j, lambda: nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4),
                                              nn.Linear(4, 1)))  # fmt: skip
        return net_problem(j, loss, net=net)

    engine = mlopt.Engine([mlopt.Stack([learner(j) for j in (1, 2, 3)])])
    twin = mlopt.Engine([learner(j) for j in (1, 2, 3)])
    engine.step()
    twin.step()
    before = copy.deepcopy(state_of(engine))
    bad["now"] = True
    with pytest.raises(mlopt.NonFiniteError if kind == "nan" else RuntimeError):
        engine.step()
    assert_same(before, state_of(engine))
    bad["now"] = False
    close(engine.step(), twin.step())
    close(state_of(engine), state_of(twin))

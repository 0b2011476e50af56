"""Penalty methods in low precision: what is a difference of gradients is computed in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import exact, kills, rounding
from evaluation.low_precision import World
from torch import Tensor

import mlopt
from mlopt.penalty import bome, f2sa

METHODS = {
    "f2sa": lambda **p: f2sa(weight=100.0, **p),
    "bome": lambda **p: bome(inner_steps=3, inner_lr=0.1, **p),
}


def moved(name: str, dtype: torch.dtype, precision: Any, rule: bool = True) -> tuple[World, Tensor]:
    world = World(mlopt.Frozen(), dtype)
    levels = METHODS[name](lower=world.train, upper=upper_of(world))
    if not rule:
        for node in levels.nodes:
            vars(node)["precision"] = None
    engine = mlopt.Engine(levels.nodes, precision=precision)
    for _ in range(3):  # the copies have parted
        engine.step()
    world.calls.clear()
    return world, engine.hypergradient(levels.upper)[world.R][""].double()


def upper_of(world: World) -> mlopt.Problem:
    """The judge without the signal of the lower variable, which no penalty method takes."""
    optimizer = torch.optim.SGD([world.R.value], lr=0.1)
    fn = world.judge.fn

    @mlopt.problem(over=world.R, given=[world.W], optimizer=optimizer)
    def judge(r: Tensor, w: Any) -> Tensor:
        return fn(r, w, torch.zeros(24, 3, dtype=r.dtype))

    return judge


@pytest.mark.parametrize("name", METHODS)
def test_the_penalised_gradient_is_taken_in_float32(name: str) -> None:
    _, expected = moved(name, torch.float64, None)
    world, found = moved(name, torch.float32, "bf16")
    assert {(called, on) for called, on, _ in world.calls} == {("train", False), ("judge", False)}
    bound = rounding(100, condition=100, dtype=torch.float32)  # the weight of a difference
    exact(found, expected, bound)
    kills(moved(name, torch.float32, "bf16", rule=False)[1], expected, bound)

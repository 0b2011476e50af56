"""A copy of an engine goes on in a pass of its own, at the batch where the engine is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from graph.test_lent_generators import COUNT, Data, Noise, Order
from small import F64, sgd
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import mlopt


class Makes(IterableDataset):
    """Another order in each pass; it does not say how long it is."""

    epoch = -1

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(3)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        shift = float(torch.rand((), generator=self.generator, dtype=F64))
        for i in torch.randperm(COUNT).tolist():
            yield shift + 100.0 * self.epoch + i + torch.rand((), dtype=F64)


class Around:
    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader

    def __iter__(self):
        yield from self.loader


def shuffled(**options: Any) -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    return DataLoader(Data(), batch_size=1, shuffle=True, generator=generator, **options)


def by_numpy() -> DataLoader:
    order = Order(Noise(np.random.default_rng(0), lambda g: float(g.random())))
    return DataLoader(Data(), batch_size=1, sampler=order)


LOADERS: dict[str, Callable[[], Any]] = {
    "list": lambda: [torch.tensor(float(i), dtype=F64) for i in range(COUNT)],
    "generator": Makes,
    "loader": shuffled,
    "sampler": by_numpy,
    "data set": lambda: DataLoader(Makes(), batch_size=None),
    "workers": lambda: shuffled(num_workers=1),
    "workers that stay": lambda: Around(shuffled(num_workers=1, persistent_workers=True)),
}


def engine_over(loader: Any) -> mlopt.Engine:
    W = mlopt.Variable(nn.Parameter(torch.ones(1, dtype=F64)), "w")
    declare = mlopt.problem(over=W, data=loader, optimizer=sgd(W), name="p")
    return mlopt.Engine([declare(lambda w, b: (w.sum() * b.sum(), {"batch": b.sum() + 0}))])


def drawn(engine: mlopt.Engine, steps: int) -> list[tuple[float, int]]:
    return [(float(engine.step()["p/batch"]), engine.epoch) for _ in range(steps)]


@pytest.mark.filterwarnings("ignore:.*fork")  # that forking is unsafe beside threads
@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("steps", [0, 2, COUNT, COUNT + 3])
@pytest.mark.parametrize("looked", [False, True])
def test_a_copy_and_its_engine_draw_the_same(kind: str, steps: int, looked: bool) -> None:
    """Where a batch waits, too: one that a gradient was taken at and no step."""
    engine = engine_over(LOADERS[kind]())
    drawn(engine, steps)
    if looked:
        engine.hypergradient(engine.graph.problems[0])
    copied = copy.deepcopy(engine)
    found = drawn(copied, 2 * COUNT)
    assert engine.epoch == steps // COUNT
    assert drawn(engine, 2 * COUNT) == found
    assert engine.epoch == steps // COUNT + 2

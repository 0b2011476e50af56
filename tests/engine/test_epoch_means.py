"""The means of an epoch are over updates: each round and each inner step counts once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small import F64
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

import mlopt
from mlopt import Alternate, Frozen, Loops, OneStep, Unrolled

#: The loss is the number of the batch, so sums are exact.
BATCHES = [torch.tensor(float(i), dtype=F64) for i in range(6)]

Schedule = Callable[[Any, Any], dict[str, Any]]


def as_it_is(low: Any, up: Any) -> dict[str, Any]:
    return {}


#: How, the options of the lower problem, and the batches of its updates in the first two epochs;
#: of these the batches whose metrics are seen, where they are others.
CASES: dict[str, tuple[Schedule, dict[str, Any], list[list[int]]]] = {
    "plain": (as_it_is, {}, [[0, 1, 2, 3, 4, 5]] * 2),
    "a turn of all": (lambda low, up: {"schedule": Alternate((low, 6), (up, 1))},
                      {"hypergrad": Frozen()}, [[0, 1, 2, 3, 4, 5]] * 2),
    # the third evaluation of each step is one that the upper problem asks for
    "turns": (lambda low, up: {"schedule": Alternate((low, 2), (up, 1))}, {}, [[0, 1, 3, 4]] * 2),
    "loops": (lambda low, up: {"schedule": Loops((low, 3), (up, 1))}, {},
              [[0, 1, 2, 3, 4, 5]] * 2),
    "repeat": (as_it_is, {"hypergrad": Frozen(), "repeat": 3}, [[0, 1, 2, 3, 4, 5]] * 2),
    "several steps": (as_it_is, {"hypergrad": Unrolled(3)}, [[0, 1, 2, 3, 4, 5]] * 2),
    "of one batch": (as_it_is, {"hypergrad": Unrolled(3, same_batch=True)},
                     [[0, 1, 2, 3, 4, 5]] * 2),
}  # fmt: skip
SEEN = {"several steps": [[0, 3]] * 2}


class Told(ReduceLROnPlateau):
    def __init__(self, optimizer: Any) -> None:
        super().__init__(optimizer)
        self.told: list[float] = []

    def step(self, metrics: Any, *epoch: Any) -> None:  # type: ignore[override]
        self.told.append(float(metrics))
        super().step(metrics, *epoch)


class Means(mlopt.Callback):
    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def on_epoch(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        self.seen.append(metrics)


def world(schedule: Schedule, options: dict[str, Any]) -> tuple[mlopt.Engine, Told]:
    w, r = (nn.Parameter(torch.zeros((), dtype=F64)) for _ in range(2))
    W, R = mlopt.Variable(w, "w"), mlopt.Variable(r, "r")
    optimizer = torch.optim.SGD([w], lr=0.1)
    told = Told(optimizer)

    @mlopt.problem(
        over=W, given=[R], data=BATCHES, optimizer=optimizer, scheduler=told,
        **{"hypergrad": OneStep(), **options},
    )  # fmt: skip
    def low(w, r, batch):
        return batch + 0 * (w + r), {"of": {"batch": batch}, "image": torch.zeros(3)}

    @mlopt.problem(over=R, given=[W], optimizer=torch.optim.SGD([r], lr=0.1))
    def up(r, w):
        return 0 * (r + w)

    return mlopt.Engine([low, up], **schedule(low, up)), told


def mean(numbers: list[int]) -> float:
    return sum(numbers) / len(numbers)


@pytest.mark.parametrize("name", CASES)
def test_each_update_counts_once(name: str) -> None:
    schedule, options, updates = CASES[name]
    engine, told = world(schedule, options)
    means = Means()
    engine.run(epochs=2, callbacks=[means], progress=False)
    assert told.told == [mean(of) for of in updates]
    assert [m["low/loss"] for m in means.seen] == told.told
    seen = SEEN.get(name, updates)
    assert [m["low/of/batch"] for m in means.seen] == [mean(of) for of in seen]
    assert set(means.seen[0]) == {"low/loss", "low/of/batch", "up/loss"}


def test_an_update_that_is_undone_does_not_count() -> None:
    w = nn.Parameter(torch.zeros((), dtype=F64))
    W = mlopt.Variable(w, "w")
    optimizer = torch.optim.SGD([w], lr=0.1)
    told = Told(optimizer)
    seen: list[float] = []

    @mlopt.problem(over=W, data=BATCHES, optimizer=optimizer, scheduler=told, repeat=2)
    def fit(w, batch):
        seen.append(float(batch))
        return (batch + 0 * w) * (float("nan") if seen.count(1.0) == 1 and batch == 1 else 1.0)

    engine = mlopt.Engine([fit], skip_nonfinite=1)
    engine.step()  # of the batches 0 and 1, of which the second is not finite
    assert engine.skipped is not None
    engine.step()
    engine.step()
    assert told.told == [mean([2, 3, 4, 5])]

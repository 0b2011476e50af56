"""The law of finite numbers, tried at random places: what is planted is undone, or leaves no trace.

A number that is infinite, or none, comes out of any one operation of a step.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
import torch
from engine.chaos import held, take
from engine.planting import PLACES, Planting
from small import assert_same

import mlopt
from mlopt._engine.outcome import Outcome
from mlopt._engine.transaction import Transaction


def spoilt(before: Any, now: Any, where: str = "") -> list[str]:
    """What is not finite now and was, or was not there."""
    if isinstance(now, torch.Tensor):
        bad = ~torch.isfinite(now)
        if isinstance(before, torch.Tensor) and before.shape == now.shape:
            bad &= torch.isfinite(before)
        return [f"{where}: {now}"] if bad.any() else []
    if isinstance(now, dict | list | tuple):
        pairs = now.items() if isinstance(now, dict) else enumerate(now)
        known = before if isinstance(before, dict) else dict(enumerate(before or ()))
        return [s for k, v in pairs for s in spoilt(known.get(k), v, f"{where}/{k}")]
    if isinstance(now, float) and not math.isfinite(now):
        return [] if before is not None and not math.isfinite(before) else [f"{where}: {now}"]
    return []


class Twins:
    """Two engines that do the same; into one of them something is planted now and then."""

    def __init__(self, name: str) -> None:
        self.engine, self.twin = PLACES[name](), PLACES[name]()
        take(self.engine)
        self.step()

    def step(self) -> None:
        """Both take an undisturbed step, and are in the same state."""
        take(self.engine)
        while self.twin.steps < self.engine.steps:
            with Planting() as planting:
                take(self.twin)
        self.operations = planting.count
        assert_same(held(self.twin), held(self.engine))

    def plant(self, planting: Planting, skip: bool) -> str:
        """One tries to take a planted step; how that ends, and that all is then as that says."""
        engine, before, refused = self.engine, held(self.twin), None
        engine.skip_nonfinite = int(skip)
        try:
            with planting:
                take(engine)
        except (mlopt.NonFiniteError, mlopt.ConvergenceError) as error:
            refused = error
        if refused is not None:
            found = isinstance(refused, mlopt.NonFiniteError)  # else: 1 / inf, a matrix of zeros
            assert not (found and skip)
            named = refused.problem if found else str(refused).partition(":")[0]
            assert named in engine.graph.labels.values()
            assert_same(before, held(engine))
            return "refused"
        if engine.skipped is not None:
            assert skip
            self.pass_over()
            assert_same(held(self.twin), held(engine))
            return "skipped"
        now = held(engine)
        del now["clock"]  # a metric may be infinite, and so may its mean
        assert now["steps"] == before["steps"] + 1
        assert not (found := spoilt(before, now)), found
        take(engine)
        return "taken"

    def pass_over(self) -> None:
        """The twin uses up the batches that the other has used, and updates nothing."""
        feed, other = self.twin._feed, self.engine._feed
        at = self.twin._evaluator, self.twin._interrupts, self.twin._holdings
        with Transaction(*at) as transaction:
            feed.begin()
            for mine, theirs in zip(feed.streams, other.streams, strict=True):
                for _ in range(other._used[theirs] - feed._used[mine]):
                    feed(mine)
            self.twin._after(Outcome(), transaction)


def plant(name: str, seed: int, times: int) -> Counter[str]:
    """Plant numbers into steps of a run, one by one; it goes on until one of them was taken."""
    rng, twins, ends = random.Random(seed), Twins(name), Counter[str]()
    for _ in range(times):
        number, at = rng.choice([math.inf, -math.inf, math.nan]), rng.randint(1, twins.operations)
        planting = Planting(at, number, rng.random())
        try:
            end = twins.plant(planting, skip=rng.random() < 0.5)
            ends[end] += 1
            if end == "taken":
                break
            if end == "skipped" or rng.random() < 0.3:
                twins.step()
        except Exception as error:
            what = f"{number} from {planting.name}, the operation {at} of {twins.operations}"
            raise AssertionError(f"{name}: {what}\n{error}") from error
    return ends


#: One of each kind.
OFTEN = [
    "loaders, adam", "loaders, foreign", "two levels, central", "two levels, implicit",
    "two levels, unrolled", "two levels, nystrom", "nested, exact", "nested, central",
    "until solved, two levels", "sequential", "game, extragradient", "game, alternating",
    "stack, exact", "stack, central",
    "random 2, with masks, together", "random 2, SGD, in turns", "random 6, Adam, upper first",
    "random 6, with masks, in turns",
]  # fmt: skip


def test_what_is_planted_is_undone_or_leaves_no_trace() -> None:
    ends = sum((plant(name, i, 5) for i, name in enumerate(OFTEN)), Counter[str]())
    assert min(ends["refused"], ends["skipped"]) >= 10
    assert ends["taken"] >= 3, ends


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
def test_it_does_so_at_many_places(name: str) -> None:
    plant(name, 100, 8)

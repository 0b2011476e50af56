"""Loaders of users that are their own iterators, or have no `__iter__`, are loaders."""

from __future__ import annotations

import csv
import io
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from bad_input import W
from graph.test_streams import numbers, reader
from torch.utils.data import DataLoader

import mlopt
from mlopt import DataError

COUNT = 3


class Resets:
    """Begins anew at `iter`."""

    fails = False

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self):
        self.at = 0
        return self

    def __next__(self) -> torch.Tensor:
        if self.at == COUNT:
            raise StopIteration
        if self.fails:
            self.fails = False
            raise OSError("once")
        self.at += 1
        return numbers(COUNT)[self.at - 1]


class Sized(Resets):
    def __len__(self) -> int:
        return COUNT


class AtItsEnd(Resets):
    """Begins anew when it has ended."""

    def __iter__(self):
        return self

    def __next__(self) -> torch.Tensor:
        try:
            return super().__next__()
        except StopIteration:
            self.at = 0
            raise


class ByIndex:
    """The protocol of sequences, without `__iter__`."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, i: int) -> torch.Tensor:
        return numbers(COUNT)[i]


def drawn(engine: mlopt.Engine, seen: list, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        engine.step()
        found.append(float(seen[-1]))
    return found


@pytest.mark.parametrize("kind", [Resets, Sized, AtItsEnd, ByIndex])
def test_their_passes_are_those_of_a_plain_loop(kind: type) -> None:
    loader = kind()
    expected = [float(x) for _ in range(3) for x in loader]
    seen: list = []
    engine = mlopt.Engine([reader(kind(), seen=seen)])
    assert drawn(engine, seen, 3 * COUNT) == expected
    assert engine.epoch == 3


@pytest.mark.parametrize("kind", [Resets, Sized, AtItsEnd])
def test_a_second_engine_is_refused_and_the_first_undisturbed(kind: type) -> None:
    loader: Any = kind()
    seen: list = []
    one, two = mlopt.Engine([reader(loader, seen=seen)]), mlopt.Engine([reader(loader)])
    found = drawn(one, seen, 2)
    with pytest.raises(DataError, match=f"{kind.__name__} hands out one iterator.*loader of its"):
        two.step()
    assert found + drawn(one, seen, 3) == [0, 1, 2, 0, 1]


def test_a_pass_that_breaks_off_is_gone_through_again_with_a_warning() -> None:
    loader, seen = Sized(), []
    engine = mlopt.Engine([reader(loader, seen=seen)])
    found = drawn(engine, seen, 2)
    loader.fails = True
    with pytest.raises(OSError, match="once"):
        engine.step()
    with pytest.warns(mlopt.CapabilityWarning, match="Sized is gone through again.*own iterator"):
        found += drawn(engine, seen, 1)
    assert found + drawn(engine, seen, 1) == [0, 1, 2, 0]


def test_one_that_does_not_begin_anew_is_an_error_in_the_second_pass() -> None:
    class Once(Resets):
        def __iter__(self):
            return self

    engine = mlopt.Engine([reader(Once())])
    engine.run(steps=COUNT, progress=False)
    with pytest.raises(DataError, match=r"pass 1 was .* empty.*iter\(loader\).*begin anew"):
        engine.step()


class Lines(io.StringIO):
    """A file of a class of the user's."""


@pytest.mark.parametrize(
    "made",
    [
        lambda: iter(numbers(2)),
        lambda: (x for x in numbers(2)),
        lambda: zip(numbers(2), numbers(2), strict=True),
        lambda: enumerate(numbers(2)),
        lambda: filter(None, numbers(2)),
        lambda: itertools.cycle(numbers(2)),
        lambda: itertools.chain(numbers(2)),
        lambda: reversed(numbers(2)),
        lambda: io.StringIO("a"),
        lambda: Lines("a"),
        lambda: csv.reader(["a"]),
        lambda: csv.DictReader(["a"]),
        lambda: np.nditer(np.zeros(2)),
        lambda: iter(DataLoader(numbers(2))),  # type: ignore[arg-type]
        lambda: iter(ByIndex()),  # type: ignore[call-overload]
    ],
)
def test_iterators_that_are_known_to_end_once_are_refused(made: Any) -> None:
    with pytest.raises(DataError, match=r"iterator.*ends after one pass; give the loader itself"):
        mlopt.problem(over=W, data=made())(lambda w, batch: w.sum())


def test_what_is_looked_up_by_name_is_no_loader() -> None:
    class Config(ByIndex):
        def keys(self) -> list[str]:
            return ["x"]

    with pytest.raises(DataError, match="takes a loader or a Stream, got Config"):
        mlopt.problem(over=W, data=Config())(lambda w, batch: w.sum())

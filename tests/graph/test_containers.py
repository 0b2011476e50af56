"""Law: what is done to the containers and objects of a batch is not done to the user's own."""

from __future__ import annotations

import collections
import dataclasses
import types
from collections.abc import MutableMapping
from typing import Any

import pytest
import torch
from small import F64, sgd
from torch import nn

import mlopt
from mlopt._graph.containers import rebuilt


class Wrapped(MutableMapping):
    """A mapping that keeps its items in another one."""

    def __init__(self, items):
        self._items = dict(items)

    def __getitem__(self, key):
        return self._items[key]

    def __setitem__(self, key, value):
        self._items[key] = value

    def __delitem__(self, key):
        del self._items[key]

    def __iter__(self):
        return iter(self._items)

    def __len__(self):
        return len(self._items)


class WithNotes(dict):
    def __init__(self, items):
        super().__init__(items)
        self.notes = ["first"]


class Sample:
    """An object that refers to itself, and to a list."""

    def __init__(self, x):
        self.x, self.parts, self.me = x, [x], self


class Copying(Sample):
    """An object that knows how it is copied."""

    def __copy__(self):
        other = object.__new__(type(self))
        other.x, other.parts, other.me = self.x, list(self.parts), other
        return other


@dataclasses.dataclass
class Made:
    x: Any

    def __post_init__(self):
        self.extra = {"x": self.x}


def by_key(b):
    b["x"] = b["x"] / 2
    return b["x"]


def by_name(b):
    b.x = b.x / 2
    return b.x


def by_part(b):
    b.parts[0] = b.parts[0] / 2
    return b.parts[0]


def taken_out(b):
    return b.pop("x") / 2


def by_extra(b):
    return b.extra.pop("x") / 2


X = torch.full((2,), 2.0, dtype=F64)
BATCHES = [
    ({"x": X}, by_key),
    (Wrapped({"x": X}), by_key),
    (Wrapped({"x": X}), taken_out),
    (WithNotes({"x": X}), taken_out),
    (collections.UserDict(x=X), taken_out),
    (types.SimpleNamespace(x=X), by_name),
    (Sample(X), by_name),
    (Sample(X), by_part),
    (Copying(X), by_part),
    (Made(X), by_name),
    (Made(X), by_extra),
]
IDS = [f"{type(b).__name__}-{f.__name__}" for b, f in BATCHES]


def place(batch):
    """Where the tensor of a batch is written."""
    return batch["x"] if isinstance(batch, MutableMapping) else batch.x


@pytest.mark.parametrize(("batch", "halved"), BATCHES, ids=IDS)
def test_each_evaluation_gets_the_users_batch(batch, halved):
    W = mlopt.Variable(nn.Parameter(torch.zeros(2, dtype=F64)), "w")
    p = mlopt.problem(over=W, data=[batch], optimizer=sgd(W, 0.5), name="p")(
        lambda w, b: ((w * halved(b)).sum() - 1).square()
    )
    engine = mlopt.Engine([p])
    engine.step()  # w = 0 - 0.5 * (2 * (0 - 1) * 1)
    assert W.tensor.tolist() == [1.0, 1.0]
    assert place(batch) is X


@pytest.mark.parametrize("batch", [b for b, _ in BATCHES], ids=IDS)
def test_what_is_written_in_place_inside_is_seen(batch):
    W = mlopt.Variable(nn.Parameter(torch.zeros(2, dtype=F64)), "w")
    p = mlopt.problem(over=W, data=[batch], optimizer=sgd(W, 0.5), name="p")(
        lambda w, b: (w * place(b).mul_(2)).sum()
    )
    with pytest.raises(mlopt.GraphError, match="p writes its batch in place"):
        mlopt.Engine([p]).step()
    assert X.tolist() == [2.0, 2.0]


def test_objects_stay_as_they_refer_to_each_other():
    one = Sample(X)
    one.other = Sample(X)
    one.other.other = one
    again = rebuilt([one, one.other], lambda held: held)
    assert again[0] is not one
    assert again[0].other is again[1]
    assert again[1].other is again[0]
    assert again[0].me is again[0]
    assert one.me is one


@pytest.mark.parametrize(
    "held", [nn.Linear(1, 1), len, int, types, iter([1]), torch.Generator(), 1.5, "text", None]
)
def test_what_is_no_container_is_passed_on(held):
    assert rebuilt([held], lambda inside: inside)[0] is held

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
from mlopt._containers.containers import rebuilt


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


def by_turn(b):
    b.append(b[0] / 2)
    return b[0]


def by_extra(b):
    return b.extra.pop("x") / 2


class InSlots:
    """An object without a dictionary of attributes."""

    __slots__ = ("parts", "x")

    def __init__(self, x):
        self.x, self.parts = x, [x]


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
    (InSlots(X), by_name),
    (InSlots(X), by_part),
    (collections.deque([X], maxlen=1), by_turn),
    (Made(X), by_name),
    (Made(X), by_extra),
]
IDS = [f"{type(b).__name__}-{f.__name__}" for b, f in BATCHES]


def place(batch):
    """Where the tensor of a batch is written."""
    if isinstance(batch, collections.deque):
        return batch[0]
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


class Read:
    """A loader of the user's own, which gives this batch anew each time."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 1

    def __iter__(self):
        yield self.make()


class Mark:
    """Compared by `is`."""

    def __init__(self):
        self.name, self.notes = "nothing", ["here"]


NOTHING = Mark()


class Part:
    def __init__(self, x):
        self.x = x


class Fixed(dict):
    """Nobody writes to it, and it is made of two tensors."""

    def __init__(self, x, y):
        super().__init__(x=x, y=y)

    def __setitem__(self, key, value):
        raise TypeError("it is fixed")


class Once(collections.abc.Mapping):
    def __init__(self, x, y):
        self._x, self._y = x, y

    def __getitem__(self, key):
        return {"x": self._x, "y": self._y}[key]

    def __iter__(self):
        return iter("xy")

    def __len__(self):
        return 2


class Pair(frozenset):
    def __new__(cls, x, y):
        return super().__new__(cls, (x, y))


def by_object():
    part = Part(X)
    return {"parts": [part], "weights": {part: 1.0}}


def with_attribute():
    x = X.clone()
    x.lengths = [1, 1]
    return x


def in_a_circle():
    held = {"x": X}
    held["me"] = held
    row = [held]
    row.append(row)
    return row


def chained():
    first = last = Part(X)
    for _ in range(5000):
        last.next = Part(X)
        last = last.next
    return first


#: What makes a batch, and the sum of its numbers as a program would take it.
MADE = {
    "a mark": (lambda: {"x": X, "mask": NOTHING}, lambda b: b["x"] if b["mask"] is NOTHING else 0),
    "keys": (by_object, lambda b: b["parts"][0].x * b["weights"][b["parts"][0]]),
    "a shape": (lambda: (X, X.shape), lambda b: b[0].view(b[1])),
    "an attribute": (with_attribute, lambda b: b * b.lengths[0]),
    "a dictionary made of two": (lambda: Fixed(X, X), lambda b: b["y"]),
    "a mapping made of two": (lambda: Once(X, X), lambda b: b["y"]),
    "a set made of two": (lambda: Pair(X, "y"), lambda b: next(x for x in b if x != "y")),
    "a circle": (in_a_circle, lambda b: b[1][1][0]["me"]["x"]),
    "a chain": (chained, lambda b: b.next.next.x),
}


@pytest.mark.parametrize("what", MADE)
@pytest.mark.parametrize("listed", [False, True])
def test_a_batch_is_what_the_loader_gives(what, listed):
    make, read = MADE[what]
    W = mlopt.Variable(nn.Parameter(torch.zeros(2, dtype=F64)), "w")
    p = mlopt.problem(over=W, data=[make()] if listed else Read(make), optimizer=sgd(W, 0.5))(
        lambda w, b: (w * read(b)).sum()
    )
    engine = mlopt.Engine([p])
    for _ in range(3):
        engine.step()
    assert W.tensor.tolist() == [-3.0, -3.0]


def test_what_is_to_be_given_back_is_given_back_once():
    given: list[int] = []

    class Lent:
        def __init__(self, number):
            self.number, self.x = number, X.clone()

        def __del__(self):
            given.append(self.number)

    numbers = iter(range(100))
    W = mlopt.Variable(nn.Parameter(torch.zeros(2, dtype=F64)), "w")
    p = mlopt.problem(over=W, data=Read(lambda: Lent(next(numbers))), optimizer=sgd(W, 0.5))(
        lambda w, b: (w * b.x).sum()
    )
    engine = mlopt.Engine([p])
    for _ in range(4):
        engine.step()
    assert len(given) == len(set(given)) >= 3


def test_what_is_put_into_a_batch_may_be_returned():
    W = mlopt.Variable(nn.Parameter(torch.zeros(2, dtype=F64)), "w")

    def fit(w, b):
        b["sum"] = (w * b["x"]).sum()
        return b["sum"], b

    batch = {"x": X}
    p = mlopt.problem(over=W, data=[batch], optimizer=sgd(W, 0.5), name="p")(fit)
    engine = mlopt.Engine([p])
    engine.step()
    assert float(engine.step()["p/sum"]) == -4.0
    assert [*batch] == ["x"]


@pytest.mark.parametrize("batch", [b for b, _ in BATCHES], ids=IDS)
def test_what_is_written_in_place_inside_is_seen(batch):
    W = mlopt.Variable(nn.Parameter(torch.zeros(2, dtype=F64)), "w")
    p = mlopt.problem(over=W, data=[batch], optimizer=sgd(W, 0.5), name="p")(
        lambda w, b: (w * place(b).mul_(2)).sum()
    )
    with pytest.raises(mlopt.GraphError, match="p writes its batch in place"):
        mlopt.Engine([p]).step()
    assert X.tolist() == [2.0, 2.0]


def test_an_object_without_numbers_is_itself():
    marks = [NOTHING, Part("name"), Part([1, 2]), Part({"n": None}), types.SimpleNamespace(a=1)]
    assert all(map(lambda was, now: was is now, marks, rebuilt(marks, lambda held: held)))


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

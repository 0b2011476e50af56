"""Batches on another device: every container keeps its type, and what came in is left alone."""

from __future__ import annotations

import collections
import dataclasses
import types
from typing import Any, NamedTuple

import pytest
import torch

from mlopt._graph.moving import move

META = torch.device("meta")


class Edges(NamedTuple):
    """A field is called as the method."""

    to: Any
    source: Any


class Named(Edges):
    """A named tuple with a constructor of its own, and an attribute."""

    def __new__(cls, both):
        made = super().__new__(cls, both, both)
        made.note = "kept"
        return made


@dataclasses.dataclass
class Plain:
    x: Any
    label: str = "cat"


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: Any
    made: Any = dataclasses.field(init=False, default=3)

    def __post_init__(self):
        assert isinstance(self.x, torch.Tensor)
        assert self.x.device.type == "cpu"  # it is not made again


@dataclasses.dataclass(frozen=True)
class Slots:
    __slots__ = ("x",)
    x: Any


class Upper(dict):
    """A mapping whose constructor takes something else."""

    def __init__(self, prefix, x):
        super().__init__({prefix: x})
        self.prefix = prefix


class Mine(list):
    def __init__(self, *values):
        super().__init__(values)


class Old:
    """Does not know `non_blocking`."""

    def __init__(self, device="cpu"):
        self.device = device

    def to(self, device):
        return Old(device)


class InPlace:
    device = "cpu"

    def to(self, device, non_blocking=False):
        self.device = device


X = torch.zeros(2)


@pytest.mark.parametrize(
    ("batch", "inside"),
    [
        ([X, 1], lambda b: b[0]),
        ((X, "a"), lambda b: b[0]),
        ({"x": X}, lambda b: b["x"]),
        ({"x": {"y": [X]}}, lambda b: b["x"]["y"][0]),
        (Edges(X, [X]), lambda b: b.source[0]),
        (Edges(X, X), lambda b: b.to),
        (Named(X), lambda b: b.to),
        (Plain(X), lambda b: b.x),
        (Plain([{"x": X}]), lambda b: b.x[0]["x"]),
        (Frozen(X), lambda b: b.x),
        (Slots(X), lambda b: b.x),
        (collections.OrderedDict(b=X, a=1), lambda b: b["b"]),
        (collections.defaultdict(list, x=X), lambda b: b["x"]),
        (collections.UserDict(x=X), lambda b: b["x"]),
        (types.MappingProxyType({"x": X}), lambda b: b["x"]),
        (Upper("x", X), lambda b: b["x"]),
        (Mine(1, X), lambda b: b[1]),
        (collections.deque([1, X], maxlen=2), lambda b: b[1]),
        (collections.UserList([X]), lambda b: b[0]),
        ({X}, lambda b: next(iter(b))),
        (frozenset([X]), lambda b: next(iter(b))),
        (torch.ones(2, 3).max(dim=0), lambda b: b.values),
        (Old(), lambda b: b),
    ],
)
def test_containers_keep_their_type(batch, inside):
    moved = move(batch, META)
    assert type(moved) is type(batch)
    assert torch.device(inside(moved).device).type == "meta"
    assert torch.device(inside(batch).device).type == "cpu"
    assert move(batch, None) is batch


def test_what_containers_have_besides_is_kept():
    assert move(Named(X), META).note == "kept"
    assert move(Plain(X), META).label == "cat"
    assert move(Frozen(X), META).made == 3
    assert move(collections.defaultdict(list, x=X), META)["new"] == []
    assert move(Upper("x", X), META).prefix == "x"
    assert move(collections.deque([X], maxlen=2), META).maxlen == 2
    assert list(move(collections.OrderedDict(b=X, a=1), META)) == ["b", "a"]


def test_packed_sequences_and_what_moves_in_place():
    packed = torch.nn.utils.rnn.pack_sequence([X])
    moved = move({"text": packed}, META)["text"]
    assert type(moved) is type(packed)
    assert moved.data.device.type == "meta"
    thing = InPlace()
    assert move(thing, META) is thing
    assert thing.device == META


@pytest.mark.parametrize("batch", [None, True, 3, 1.5, "text", b"bytes", Plain, torch.float32, len])
def test_everything_else_is_passed_on(batch):
    assert move(batch, META) is batch
    assert move((batch,), META)[0] is batch

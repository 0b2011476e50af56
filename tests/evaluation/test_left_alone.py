"""Tensors that an evaluation writes and no other one depends on: nothing is said of them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from evaluation.keeping import Layer, X, engine_of, fit, plain
from evaluation.test_left import STUDENT, in_place, pulled, said_by
from small import F64, seeded

import mlopt


def accumulator() -> mlopt.Engine:
    total = torch.zeros((), dtype=F64)

    def low(w, r):
        loss = plain(w, r)
        total.add_(loss.detach())
        return loss

    return engine_of(low=low)


def scratch() -> mlopt.Engine:
    room = torch.zeros(8, 3, dtype=F64)

    def low(w, r):
        room.copy_(X)
        return fit(w(room.clone()), r)

    return engine_of(low=low)


def last_features() -> mlopt.Engine:
    held = SimpleNamespace(last=torch.zeros(8, 1, dtype=F64))

    def low(w, r):
        held.last = w(X).detach()
        return plain(w, r) + held.last.mean()

    return engine_of(low=low)


def moved_elsewhere() -> mlopt.Engine:
    teacher = STUDENT.clone()
    return engine_of(low=lambda w, r: pulled(w, r, teacher))


def own_buffer() -> mlopt.Engine:
    net = seeded(1, Layer)
    net.register_buffer("teacher", STUDENT.clone())

    def low(w, r):
        in_place(w.teacher, w.weight)
        return pulled(w, r, w.teacher.clone())

    return engine_of(net, low)


def whole_number() -> mlopt.Engine:
    calls = torch.zeros((), dtype=torch.int64)
    return engine_of(low=lambda w, r: (calls.add_(1), plain(w, r))[1])


LEGAL = [accumulator, scratch, last_features, moved_elsewhere, own_buffer, whole_number]


@pytest.mark.parametrize("make", LEGAL)
def test_what_no_value_depends_on_is_no_matter(make: Callable[[], mlopt.Engine]) -> None:
    engine = make()
    for _ in range(2):
        assert not said_by(engine)

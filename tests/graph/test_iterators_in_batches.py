"""A batch that can be gone through once only is refused before anything goes through it."""

from __future__ import annotations

import io
import itertools
import re
import types
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from bad_input import W, refused_at_the_first_step, tensor
from compare import exact, rounding
from small import assert_same, sgd, state_of
from torch.nn.functional import mse_loss

import mlopt
from mlopt import DataError

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)


class Loader:
    """Makes its batches anew in each pass."""

    def __init__(self, *make: Callable[[], Any]) -> None:
        self.make = make

    def __len__(self) -> int:
        return len(self.make)

    def __iter__(self):
        return (make() for make in self.make)


@dataclass
class Pair:
    x: Any
    y: Any


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x: Any) -> None:
        self.x = x


def rows() -> Any:
    yield from X


ITERATORS = {
    "zip": lambda: zip(X, X, strict=True),
    "map": lambda: map(torch.exp, X),
    "enumerate": lambda: enumerate(X),
    "filter": lambda: filter(None, [1]),
    "generator": rows,
    "list_iterator": lambda: iter([X]),
    "cycle": lambda: itertools.cycle([X]),
    "StringIO": lambda: io.StringIO("1\n2"),
    "flatiter": lambda: X.numpy().flat,
    "nditer": lambda: np.nditer(X.numpy()),
    "_SingleProcessDataLoaderIter": lambda: iter(torch.utils.data.DataLoader([X])),
}


@pytest.mark.parametrize("kind", ITERATORS)
def test_it_is_refused_by_its_name(kind: str) -> None:
    called: list[Any] = []
    fit = mlopt.problem(over=W, data=Loader(ITERATORS[kind]), optimizer=sgd(W), name="fit")(
        lambda w, batch: called.append(batch) or w.sum()
    )
    said = rf"fit: batch, from Loader, is an iterator \({kind}\).*list\(zip"
    refused_at_the_first_step([fit], error=DataError, match=said)
    assert not called


PLACES = {
    "batch[1]": lambda it: (X, it),
    "batch['views'][0]": lambda it: {"x": X, "views": [it]},
    "batch[0][1]['y']": lambda it: [(X, {"y": it})],
    "batch[2]": lambda it: deque([X, X, it]),
    "batch.y": lambda it: Pair(X, it),
    "batch.x.y[0]": lambda it: types.SimpleNamespace(x=Pair(X, (it,))),
    "batch.x": Slotted,
    "batch['x']": lambda it: types.MappingProxyType({"x": it}),
    "batch[0]": lambda it: {it},
}


@pytest.mark.parametrize("way", PLACES)
def test_the_error_says_where_it_is(way: str) -> None:
    made: list[Any] = []

    def make() -> Any:
        made.append(zip(X, X, strict=True))
        return PLACES[way](made[-1])

    fit = mlopt.problem(over=W, data=Loader(make), optimizer=sgd(W))(lambda w, batch: w.sum())
    said = rf" {re.escape(way)}, from Loader, is an iterator \(zip\)"
    refused_at_the_first_step([fit], error=DataError, match=said)
    assert all(len(list(each)) == len(X) for each in made)  # nobody has gone through them


def test_of_several_streams_the_one_is_named() -> None:
    class Micro(Loader):
        pass

    data = (Loader(lambda: X), Micro(lambda: [zip(X, X, strict=True)]))
    fit = mlopt.problem(over=W, data=data, optimizer=sgd(W))(lambda w, batch: w.sum())
    said = r"batch\[1\]\[0\], from Micro, is an iterator"
    refused_at_the_first_step([fit], error=DataError, match=said)


def test_of_a_signal() -> None:
    seen = mlopt.signal(given=[W], data=Loader(lambda: zip(X, X, strict=True)), name="seen")(
        lambda w, batch: sum(a @ w for a, _ in batch)
    )
    fit = mlopt.problem(over=W, given=[seen], optimizer=sgd(W))(lambda w, s: (w * s).sum())
    refused_at_the_first_step([seen, fit], error=DataError, match="seen: batch, from Loader")


@pytest.mark.parametrize("options", [{}, {"device": "cpu"}])
def test_one_that_comes_later_spoils_no_step(options: dict[str, Any]) -> None:
    w = mlopt.Variable(tensor(), "w")
    pairs = [(X, X.sum(1))]
    data = Loader(lambda: pairs, lambda: pairs, lambda: zip(X, X.sum(1), strict=True))

    @mlopt.problem(over=w, data=data, optimizer=sgd(w))
    def fit(w, batch):
        return sum((mse_loss(x @ w, y) for x, y in batch), 0 * w.sum())

    engine = mlopt.Engine([fit], **options)
    engine.step()
    engine.step()
    before = state_of(engine)
    for _ in range(2):
        with pytest.raises(DataError, match="fit: batch, from Loader, is an iterator"):
            engine.step()
        assert_same(before, state_of(engine))
    expected = tensor().detach().requires_grad_()
    for _ in range(2):
        (gradient,) = torch.autograd.grad(mse_loss(X @ expected, X.sum(1)), expected)
        expected = (expected - 0.1 * gradient).detach().requires_grad_()
    exact(w.tensor.detach(), expected.detach(), rounding(100))


def test_a_users_own_that_begins_anew_is_gone_through_in_each_evaluation() -> None:
    class Micro:
        def __iter__(self):
            self.parts = iter(X.split(2))
            return self

        def __next__(self):
            return next(self.parts)

    w, r = mlopt.Variable(tensor(), "w"), mlopt.Variable(tensor(1), "r")

    @mlopt.problem(
        over=w, given=[r], data=[Micro()], optimizer=sgd(w),
        hypergrad=mlopt.OneStep(product=mlopt.Central()),
    )  # fmt: skip
    def low(w, r, batch):
        return r.exp().sum() * sum((x @ w - 1).square().sum() for x in batch)

    @mlopt.problem(over=r, given=[w], optimizer=sgd(r))
    def up(r, w):
        return (w - 1).square().sum()

    mlopt.Engine([low, up]).step()
    before = tensor().detach()
    gradient = tensor(1).detach().exp() * 2 * X.T @ (X @ before - 1)
    exact(w.tensor.detach(), before - 0.1 * gradient, rounding(40, condition=10))

"""What functions change around them is named, and put back."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mlopt._evaluation.surroundings import Surroundings

COUNT = [0]
TOTAL = 0


class Held:
    def __init__(self) -> None:
        self.calls, self.seen = 0, {"a": 1}

    def method(self) -> Any:
        self.calls += 1
        return self.calls


def rebound() -> Any:
    number = 1

    def function() -> Any:
        nonlocal number
        number += 1
        return number

    return function, lambda: number, "number"


def of_global() -> Any:
    def function() -> None:
        global TOTAL  # noqa: PLW0603 - what scripts do
        TOTAL += 1

    return function, lambda: TOTAL, "TOTAL"


def helper() -> None:
    COUNT[0] += 1


def in_a_helper() -> Any:
    return lambda: helper(), lambda: list(COUNT), "COUNT"


def of_content(held: Any, change: Callable[[Any], Any], look: Any = None) -> Any:
    return lambda: (lambda: change(held), lambda: (look or type(held))(held), "held")


def method() -> Any:
    held = Held()
    return held.method, lambda: held.calls, "self.calls"


def new_attribute() -> Any:
    held = Held()
    return lambda: setattr(held, "last", 1), lambda: sorted(vars(held)), "held.last"


def inside() -> Any:
    held = Held()
    return lambda: held.seen.pop("a"), lambda: dict(held.seen), "held.seen"


def mode() -> Any:
    net = nn.Sequential(nn.Dropout())
    return lambda: net.eval(), lambda: [m.training for m in net.modules()], "net.training"


def bound_argument() -> Any:
    held = [1]
    return partial(lambda x: x.append(2), held), lambda: list(held), "0"


CASES = {
    "a name": rebound, "a global name": of_global, "in a function that it calls": in_a_helper,
    "a method": method, "a new attribute": new_attribute, "an attribute": inside, "a mode": mode,
    "an argument": bound_argument,
    "a list": of_content([1], lambda x: x.append(2)),
    "a dict": of_content({"a": 1}, lambda x: x.clear()),
    "a set": of_content({1}, lambda x: x.add(2)),
    "in a list": of_content([[1]], lambda x: x[0].append(2), lambda x: [list(y) for y in x]),
    "a tensor": of_content(torch.zeros(2), lambda x: x.add_(1), torch.clone),
    "torch": of_content(torch.Generator(), lambda x: torch.rand(1, generator=x),
                        lambda x: x.get_state()),
    "Python": of_content(random.Random(1), lambda x: x.random(), lambda x: x.getstate()),
    "NumPy": of_content(np.random.default_rng(1), lambda x: x.random(),
                        lambda x: x.bit_generator.state),
}  # fmt: skip


def same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("name", CASES)
def test_it_is_named_and_put_back(name: str) -> None:
    function, look, called = CASES[name]()
    surroundings, before = Surroundings(function), look()
    assert surroundings.changed() == []
    function()
    assert not same(look(), before)
    assert any(called in changed for changed in surroundings.changed())
    surroundings.put_back()
    assert same(look(), before)


def test_what_is_let_alone() -> None:
    loader, large = [1], torch.zeros(2**16 + 1)

    def function() -> None:
        loader.append(2)
        large.add_(1)

    surroundings = Surroundings(function, apart=[loader])
    function()
    assert surroundings.changed() == ["large"]
    surroundings.put_back()
    assert loader == [1, 2]
    assert large[0] == 1


def test_what_classes_override_is_neither_called_nor_loaded() -> None:
    class Lazy(dict):
        def __getitem__(self, key):
            raise AssertionError

        items = clear = __len__ = __getitem__  # type: ignore[assignment]

    class Proxy:
        @property
        def __class__(self):  # type: ignore[override]
            raise AssertionError

    lazy, proxy = Lazy(a=1), Proxy()

    def function() -> Any:
        dict.update(lazy, a=2)
        return proxy

    surroundings = Surroundings(function)
    function()
    assert surroundings.changed() == ["lazy"]
    surroundings.put_back()
    assert dict.get(lazy, "a") == 1

"""The law of a whole step, for what is kept in unusual places: it is put back, or named at once."""

from __future__ import annotations

import dataclasses
import functools
import random
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from small import F64, assert_same, bilevel, state_of
from torch import nn

import mlopt


class Outside(torch.optim.SGD):
    """An optimizer of the user's that changes something else in each step."""

    def __init__(self, parameters: Any, thing: Any) -> None:
        super().__init__(parameters, lr=0.1)
        self.thing = thing

    def step(self, closure: Any = None) -> Any:
        self.thing.tick()
        return super().step(closure)


class InDict(dict):
    """A dictionary that is written in a way of its own."""

    def update(self, *_: Any, **__: Any) -> None:
        raise TypeError

    clear = items = copy = __iter__ = update  # type: ignore[assignment]

    def tick(self) -> None:
        dict.__setitem__(self, "n", dict.get(self, "n", 0) + 1)

    def read(self) -> Any:
        return dict.get(self, "n", 0)


class InList(list):
    """In an attribute of a list."""

    def tick(self) -> None:
        self.n = self.read() + 1

    def read(self) -> Any:
        return getattr(self, "n", 0)


class InOrder(OrderedDict):
    """One whose order changes."""

    def tick(self) -> None:
        self.setdefault("a", 1), self.setdefault("b", 2)
        self.move_to_end(next(iter(self)))

    def read(self) -> Any:
        return [*self]


class InSlots:
    """Slots under a private name, one of them empty at first, that no attribute can be set in."""

    __slots__ = ("__n", "late")

    def __init__(self) -> None:
        object.__setattr__(self, "_InSlots__n", 0)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)

    def tick(self) -> None:
        object.__setattr__(self, "_InSlots__n", self.__n + 1)
        object.__setattr__(self, "late", 1)

    def read(self) -> Any:
        return self.__n, hasattr(self, "late")


class InClass:
    """In attributes of the class."""

    n, seen = 0, [0]  # noqa: RUF012

    def tick(self) -> None:
        type(self).n += 1
        type(self).seen[0] += 1
        type(self).late = 1  # type: ignore[attr-defined]

    def read(self) -> Any:
        return self.n, [*self.seen], hasattr(self, "late")


class InModule(nn.Module):
    """In an attribute of a module, and a buffer that is assigned anew."""

    def __init__(self) -> None:
        super().__init__()
        self.n, self.inner = 0, nn.BatchNorm1d(1)
        self.register_buffer("b", torch.zeros(1))

    def tick(self) -> None:
        self.n += 1
        self.b = self.b + 1
        self.inner.eps *= 2

    def read(self) -> Any:
        return self.n, self.b.item(), self.inner.eps


class InView:
    """In an array that is held by a view that cannot be written, and in an array of objects."""

    def __init__(self) -> None:
        self._all = np.zeros(2)
        self.seen = np.broadcast_to(self._all, (3, 2))
        self.objects = np.array([[0], {}], dtype=object)
        self.tick = functools.partial(InView._tick, self._all, self.objects)
        del self._all

    @staticmethod
    def _tick(numbers: Any, objects: Any) -> None:
        numbers += 1
        objects[0].append(1)

    def read(self) -> Any:
        return self.seen.tolist(), [*self.objects[0]]


class InTensors:
    """In tensors that share memory: with themselves, and each other's in turn."""

    def __init__(self) -> None:
        self.wide = torch.zeros(2, 1).expand(2, 3)
        self.a, self.b = torch.zeros(2), torch.ones(2)

    def tick(self) -> None:
        self.a.data, self.b.data = self.b.data, self.a.data
        self.a.add_(3)
        self.wide = self.wide + 1
        self.wide = self.wide[:, :1].expand(2, 3)

    def read(self) -> Any:
        return self.wide.tolist(), self.a.tolist(), self.b.tolist()


class InPlace(InTensors):
    """In such a tensor, written."""

    def tick(self) -> None:
        self.wide[:, 0] += 1


class InCells:
    """In what functions close over, their defaults and attributes."""

    def __init__(self) -> None:
        n, tensor = 0, torch.zeros(1)

        def tick(seen: Any = [0]) -> None:  # noqa: B006
            nonlocal n
            n += 1
            tensor.add_(1)
            seen[0] += 1
            tick.n = n  # type: ignore[attr-defined]

        tick.n = 0  # type: ignore[attr-defined]
        self.tick = tick
        self.read: Callable[[], Any] = lambda: (n, tensor.item(), *tick.__defaults__[0], tick.n)


class InPartial:
    """In the argument of a partial function."""

    def __init__(self) -> None:
        seen = deque([0], maxlen=3)
        self.tick = functools.partial(lambda some, n: some.append(n), seen, 1)
        self.read = lambda: [*seen]


@dataclasses.dataclass(frozen=True)
class Frozen:
    """What no attribute can be set in, with and without anything that changes."""

    count: Counter = dataclasses.field(default_factory=Counter)
    name: uuid.UUID = dataclasses.field(default_factory=uuid.uuid4)
    random: Any = dataclasses.field(default_factory=random.SystemRandom)
    drawn: Any = dataclasses.field(default_factory=lambda: np.random.default_rng(0))

    def tick(self) -> None:
        self.count["n"] += self.drawn.integers(5) + 1

    def read(self) -> Any:
        return self.count["n"], self.drawn.bit_generator.state["state"]


class InBytes(bytearray):
    """In bytes, while somebody looks at them."""

    def __init__(self) -> None:
        super().__init__(b"ab")
        self.view = memoryview(self)

    def tick(self) -> None:
        self[0] += 1

    def read(self) -> Any:
        return bytes(self)


THINGS = [
    InDict, InList, InOrder, InSlots, InClass, InModule, InView, InTensors, InPlace, InCells,
    InPartial, Frozen, InBytes,
]  # fmt: skip


def by_optimizer(variable: mlopt.Variable, thing: Any) -> torch.optim.Optimizer:
    return Outside(variable.parameters(), thing)


def by_hook(variable: mlopt.Variable, thing: Any) -> torch.optim.Optimizer:
    """Torch's own, whose hook changes something."""
    optimizer = torch.optim.SGD(variable.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: thing.tick())
    return optimizer


def by_patch(variable: mlopt.Variable, thing: Any) -> torch.optim.Optimizer:
    """Torch's own, whose step is wrapped."""
    optimizer = torch.optim.SGD(variable.parameters(), lr=0.1)
    step = optimizer.step

    @functools.wraps(step)
    def both(*arguments: Any) -> None:
        thing.tick()
        step(*arguments)

    optimizer.step = both
    return optimizer


@pytest.mark.parametrize("way", [by_optimizer, by_hook, by_patch])
@pytest.mark.parametrize("kind", THINGS)
def test_a_step_that_fails_puts_it_back(kind: Any, way: Any) -> None:
    thing = kind()
    made = bilevel(hypergrad=mlopt.Frozen(), optimizer=lambda v: way(v, thing))
    engine = made.engine()
    engine.step()  # a warning would be an error
    before, values = thing.read(), state_of(engine)
    broken = made.upper.optimizer.register_step_post_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.step()
    assert thing.read() == before
    assert_same(values, state_of(engine))
    broken.remove()
    engine.step()
    assert thing.read() != before


class Odd:
    """Holds a generator that does not tell where it stands, or takes nothing back."""

    def __init__(self, taken: bool) -> None:
        self.x = Unwilling() if taken else Untold(np.random.PCG64(0))

    def tick(self) -> None:
        self.x.random()


class Untold(np.random.Generator):
    @property
    def bit_generator(self) -> Any:
        raise NotImplementedError


class Unwilling(np.random.RandomState):
    def set_state(self, *_: Any) -> None:
        raise TypeError("not me")


def test_what_does_not_let_itself_be_put_back_is_named_and_keeps_nothing_else() -> None:
    made = bilevel(hypergrad=mlopt.Frozen(), optimizer=lambda v: by_optimizer(v, Odd(False)))
    engine = made.engine()
    with pytest.warns(mlopt.CapabilityWarning, match=r"thing\.x \(Untold\)"):
        engine.step()
    made = bilevel(hypergrad=mlopt.Frozen(), optimizer=lambda v: by_optimizer(v, Odd(True)))
    engine = made.engine()
    engine.step()
    before = state_of(engine)
    made.upper.optimizer.register_step_post_hook(lambda *_: 1 / 0)
    with (
        pytest.warns(mlopt.CapabilityWarning, match=r"thing\.x \(TypeError: not me\)"),
        pytest.raises(ZeroDivisionError),
    ):
        engine.step()
    assert_same(before, state_of(engine))


def test_a_parameter_that_takes_turns_with_an_average_is_put_back() -> None:
    class Turns(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            for p in self.param_groups[0]["params"]:
                state = self.state[p]
                average = state.setdefault("average", torch.zeros_like(p)).lerp_(p, 0.5)
                p.data, state["average"] = average, p.data

    made = bilevel(hypergrad=mlopt.Frozen(), optimizer=lambda v: Turns(v.parameters(), lr=0.1))
    engine = made.engine()
    engine.step()
    before = state_of(engine)
    made.upper.optimizer.register_step_post_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.step()
    assert_same(before, state_of(engine))
    assert all(p.dtype is F64 for p in made.W.parameters())

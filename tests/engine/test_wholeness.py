"""The law of wholeness: whatever falls into a step, all is as before it, or as after it."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
import torch
from engine.chaos import ALL, BEFORE, Injected, Interrupted, falling, held, take
from small import F64, assert_same, batches, bilevel, differences
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader

import mlopt
from mlopt._engine.memory import Memory


@cache
def undisturbed(name: str, steps: int) -> tuple[list[Any], int]:
    """The states of an engine from `BEFORE` on, and how many calls its next step makes."""
    engine = ALL[name]()
    take(engine, BEFORE)
    states = [held(engine)]
    for _ in range(steps):
        take(engine)
        states.append(held(engine))
    again = ALL[name]()
    take(again, BEFORE)
    with falling(0, Injected) as count:
        take(again)
    assert not differences(states[1], held(again)), "no run of its own repeats it"
    return states, count[0]


def fall(name: str, places: list[tuple[float, type[BaseException]]]) -> None:
    """Let something fall into each step of a run, at a part of its calls, and go on.

    A step that is undone is taken again, undisturbed, before something falls into the next one.
    """
    states, calls = undisturbed(name, len(places) + 1)
    engine = ALL[name]()
    take(engine, BEFORE)
    for i, (place, error) in enumerate(places):
        at = 1 + int(place * (calls - 1))
        try:
            with falling(at, error):
                take(engine)
            fell = ""
        except (Injected, Interrupted, mlopt.MloptError) as raised:
            fell = str(raised)
        state = held(engine)
        before, after = differences(states[i], state), differences(states[i + 1], state)
        where = f"{name}, call {at} of {calls}: {fell}"
        why = "\n".join([where, "not before:", *before, "nor after:", *after])
        assert not before or not after, why
        nothing_is_lent_twice(engine)
        if not before:
            take(engine)
            assert_same(states[i + 1], held(engine))
    take(engine)
    assert_same(states[-1], held(engine))


def nothing_is_lent_twice(engine: mlopt.Engine) -> None:
    """The copies of buffers that the next evaluations are lent share no memory with each other."""
    for binding in engine._evaluator.bindings.values():
        held = [t for t in binding.held() if t is not None and t.numel()]
        spare = [t for copies in binding.spare for t in copies if t.numel()]
        places = [t.data_ptr() for t in [*held, *spare]]
        assert len(set(places)) == len(places)


def places(count: int, seed: int) -> list[tuple[float, type[BaseException]]]:
    """Where something falls, and what: an error, or what ends the program."""
    rng = random.Random(seed)
    return [(rng.random(), rng.choice([Injected, Interrupted])) for _ in range(count)]


#: One of each kind, of every run; an exception of a generator that is closed has nowhere to go.
OFTEN = [
    "loaders, sgd", "loaders, adam", "loaders, foreign", "two levels, central", "two levels, sama",
    "two levels, unrolled, Adam", "two levels, recomputed", "nested, exact", "nested, truncated",
    "nested, implicit", "upper first, nested", "in turns, nested", "until solved, two levels",
    "sequential", "game, simultaneous", "game, extragradient", "game, alternating",
    "stack, exact", "stack, central", "random 1",
]  # fmt: skip
unheard = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@unheard
@pytest.mark.parametrize("name", OFTEN)
def test_all_or_nothing(name: str) -> None:
    fall(name, places(5, OFTEN.index(name)))


@pytest.mark.slow
@unheard
@pytest.mark.parametrize("name", ALL)
def test_all_or_nothing_at_many_places(name: str) -> None:
    for seed in (100, 200, 300, 400):
        fall(name, places(6, seed + list(ALL).index(name)))


@unheard
@pytest.mark.parametrize("name", ["loaders, foreign", "in turns, two levels"])
def test_all_or_nothing_among_the_commits(name: str) -> None:
    """The last part of a step, where half of it is done."""
    fall(name, [(0.75 + place / 4, error) for place, error in places(12, 7)])


@unheard
@pytest.mark.parametrize("name", ["loaders, adam", "two levels, central", "nested, exact"])
@pytest.mark.parametrize("part", ["shut", "release", "close", "finish", "after_step", "keep"])
def test_all_or_nothing_where_something_ends(name: str, part: str) -> None:
    """At the calls that put back what an evaluation, or a step, has borrowed."""
    states, _ = undisturbed(name, 4)
    engine = ALL[name]()
    take(engine, BEFORE)
    for i, at in enumerate((1, 2, 5)):
        try:
            with falling(at, Interrupted, part):
                take(engine)
        except Interrupted:
            assert_same(states[i], held(engine))
            nothing_is_lent_twice(engine)
            take(engine)
        assert_same(states[i + 1], held(engine))  # at once, if it is not called so often
    take(engine)
    assert_same(states[-1], held(engine))


def test_no_copy_of_a_buffer_is_taken_back_twice() -> None:
    """Whichever of them an interrupt keeps from being taken back at a step's end."""
    engine = ALL["two levels, central"]()
    take(engine, BEFORE)
    with falling(0, Interrupted, "take_back") as count:
        take(engine)
    assert count[0] > 3
    for at in range(1, count[0] + 1):
        with pytest.raises(Interrupted), falling(at, Interrupted, "take_back"):
            take(engine)
        take(engine)
        nothing_is_lent_twice(engine)


def test_a_buffer_that_grew_has_its_size_again() -> None:
    class Grows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3, 1, dtype=F64))
            self.register_buffer("seen", torch.zeros(1, dtype=F64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen = torch.cat([self.seen, x.mean().reshape(1)])
            return x @ self.weight

    made = bilevel(Grows())
    engine = made.engine()
    take(engine, 2)
    before = held(engine)
    assert len(made.W.value.seen) == 3
    broken = made.upper.optimizer.register_step_post_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.step()
    assert_same(before, held(engine))
    broken.remove()
    take(engine)
    assert len(made.W.value.seen) == 4


# What is raised by those who are called.


@pytest.mark.parametrize("schedule", [None, mlopt.Sequential(), mlopt.UpperFirst()])
@pytest.mark.parametrize("part", ["optimizer", "scheduler", "hook"])
def test_what_they_raise_undoes_the_step(schedule: Any, part: str) -> None:
    method = mlopt.Frozen() if isinstance(schedule, mlopt.Sequential) else None
    made = bilevel(hypergrad=method)
    upper = made.upper.optimizer
    broken = [False]

    def breaks(*arguments: Any, **options: Any) -> None:
        if broken[0]:
            raise MemoryError("out of memory")

    class Breaks(StepLR):
        def step(self, epoch: Any = None) -> None:
            super().step(epoch)
            if part == "scheduler":
                breaks()

    made.upper.scheduler = mlopt.PerStep(Breaks(upper, 1))
    engine = made.engine(schedule=schedule)
    if part == "optimizer":
        upper.register_step_pre_hook(breaks)
    elif part == "hook":
        upper.register_step_post_hook(breaks)
    take(engine, BEFORE)
    before, broken[0] = held(engine), True
    for _ in range(2):
        with pytest.raises(MemoryError):
            engine.step()
        assert_same(before, held(engine))
    broken[0] = False
    engine.step()
    other = bilevel(hypergrad=method)
    other.upper.scheduler = mlopt.PerStep(StepLR(other.upper.optimizer, 1))
    control = other.engine(schedule=schedule)
    take(control, BEFORE + 1)
    assert_same(held(control), held(engine))


def test_a_loader_that_raises_loses_no_batch() -> None:
    """Its iterator has ended: the pass is gone through again, to the same batch."""

    def batches_of(engine_broken: bool) -> list[Any]:
        seen: list[Any] = []
        broken = [engine_broken]

        class Rows(torch.utils.data.Dataset):
            def __len__(self) -> int:
                return 12

            def __getitem__(self, i: int) -> Any:
                if broken[0] and len(seen) == 4:
                    broken[0] = False
                    raise OSError("a disk that fails once")
                return torch.full((3,), float(i), dtype=F64), torch.rand(1, dtype=F64)

        loader = DataLoader(Rows(), batch_size=3, shuffle=True)
        made = bilevel(train=loader, valid=[batches(1)[0]], seen=seen)
        engine = made.engine()
        while engine.epoch < 3:
            try:
                engine.step()
            except OSError:
                engine.step()
        return [b for name, b in seen if name == "fit"]

    for one, other in zip(batches_of(True), batches_of(False), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


@pytest.mark.parametrize("name", ["loaders, adam", "in turns, nested", "stack, exact"])
def test_the_plan_states_the_copies(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = []

    class Counted(Memory):
        def restore(self) -> None:
            copied.append(self.bytes)

    monkeypatch.setattr("mlopt._engine.transaction.Memory", Counted)
    engine = ALL[name]()
    for _ in range(2):  # the states of optimizers are made in the first step
        stated = engine.plan().copies
        with monkeypatch.context() as once:
            once.setattr(engine._feed, "finish", lambda read: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                engine.step()
        assert copied[-1] == stated > 0
        take(engine)


def test_without_copies_nothing_is_undone_and_that_is_said() -> None:
    made = bilevel()
    engine = made.engine(undo=False)
    take(engine)
    before = made.W.value[0].weight.detach().clone()

    def breaks(*arguments: Any) -> None:
        raise MemoryError("out of memory")

    made.upper.optimizer.register_step_pre_hook(breaks)
    with pytest.raises(MemoryError):
        engine.step()
    assert not torch.equal(before, made.W.value[0].weight)
    assert "cannot be undone" in str(engine.plan())

"""The resume law: n steps are k steps, a save, a load into another engine, and n - k steps."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import pytest
import torch
from engine.chaos import ALL, Lookahead, Unsized, held, take
from grids import thinned
from small import F64, Bilevel, assert_same, bilevel, mlp
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

import mlopt

STEPS, AT = 9, 4


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """What comes back from a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def everyones() -> tuple[Any, ...]:
    numpy = np.random.get_state(legacy=False)["state"]
    return random.getstate(), numpy["key"].tolist(), numpy["pos"], torch.get_rng_state().tolist()


@pytest.mark.parametrize("name", thinned(3, [n for n in ALL if "foreign" not in n]))
def test_a_resumed_engine_goes_on_to_the_bit(name: str) -> None:
    engine = ALL[name]()
    take(engine, AT)
    state = saved(engine.state_dict())
    metrics = [engine.step() for _ in range(AT, STEPS)]
    end, numbers = held(engine), everyones()

    other = ALL[name]()
    other.load_state_dict(state)
    again = [other.step() for _ in range(AT, STEPS)]
    assert_same(end, held(other))
    assert_same(metrics, again)
    assert numbers == everyones()


X = torch.linspace(-1, 1, 33, dtype=F64).reshape(11, 3)
Y = X.sum(1, keepdim=True).sin()


class Noisy(Dataset):
    """Augmented by draws of torch, NumPy and Python."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(()).double() + np.random.rand() + random.random()
        return X[i] + 0.1 * noise, Y[i]


class Told:
    """Shuffled by the number of the pass, as a sampler of ranks is."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Any:
        order = torch.randperm(11, generator=torch.Generator().manual_seed(self.epoch))
        return iter([(X[i], Y[i]) for i in order.split(4)])


class Own:
    """Shuffled by a generator of NumPy of its own."""

    def __init__(self) -> None:
        self.draw = np.random.default_rng(5)

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        order = torch.from_numpy(self.draw.permutation(11))
        return iter([(X[i], Y[i]) for i in order.split(4)])


def made(**options: Any) -> DataLoader:
    return DataLoader(TensorDataset(X, Y), batch_size=4, **options)


LOADERS: dict[str, Any] = {
    "shuffled": lambda: made(shuffle=True),
    "a generator": lambda: made(shuffle=True, generator=torch.Generator().manual_seed(3)),
    "a sampler": lambda: made(sampler=RandomSampler(X, generator=torch.Generator())),
    "augmented": lambda: DataLoader(Noisy(), batch_size=4, shuffle=True),
    "workers": lambda: DataLoader(Noisy(), batch_size=4, shuffle=True, num_workers=2),
    "lasting workers": lambda: made(shuffle=True, num_workers=1, persistent_workers=True),
    "unsized": lambda: Unsized(DataLoader(Noisy(), batch_size=4, shuffle=True)),
    "told": Told,
    "NumPy's": Own,
    "a list": lambda: [(X, Y), (-X, Y)],
}


def reading(name: str) -> Bilevel:
    random.seed(1)
    np.random.seed(1)
    return bilevel(mlp(), train=LOADERS[name](), valid=LOADERS["shuffled"]())


@pytest.mark.parametrize("at", [1, 3, 5])  # at the beginning, end and middle of a pass
@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_is_gone_through_to_where_it_stood(name: str, at: int) -> None:
    first = reading(name)
    engine = first.engine(seed=2)
    take(engine, at)
    state = saved(engine.state_dict())
    take(engine, 4)
    end, numbers = held(engine), everyones()

    second = reading(name)
    random.seed(7)
    other = second.engine(seed=2)
    other.load_state_dict(state)
    take(other, 4)
    assert_same(end, held(other))
    assert numbers == everyones()


def test_a_state_is_nobody_elses() -> None:
    engine = ALL["loaders, adam"]()
    take(engine, 3)
    state = engine.state_dict()
    before = saved(state)
    take(engine, 2)
    assert_same(before, state)
    other = ALL["loaders, adam"]()
    other.load_state_dict(state)
    take(other, 3)
    assert_same(before, state)


def other_width(state: dict[str, Any]) -> None:
    state["variables"]["w"]["parameters"]["0.weight"] = torch.zeros(2, 2)


def without(*path: str) -> Any:
    def change(state: dict[str, Any]) -> None:
        at = state
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]

    return change


def put(value: Any, *path: Any) -> Any:
    def change(state: dict[str, Any]) -> None:
        at = state
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return change


OTHERS: dict[str, tuple[Any, str]] = {
    "shape": (other_width, "w.0.weight is of"),
    "dtype": (put(torch.zeros(3), "variables", "a", "parameters", ""), "float32 in it, not"),
    "no parameter": (without("variables", "w", "parameters", "2.bias"), "w.2.bias is not in it"),
    "one more": (put(torch.zeros(1), "variables", "w", "parameters", "x"), "w.x is in it"),
    "another variable": (without("variables", "a"), "its variables are w, not w, a"),
    "no optimizer": (without("optimizers", "tune"), "its optimizers are fit, not fit, tune"),
    "groups": (put([], "optimizers", "fit", "param_groups"), "does not take its state"),
    "a loader less": (put([], "streams"), "it reads 0 loaders, not 2"),
    "generators": (put([1, 2], "streams", 0, "generators"), "2 generators of random numbers"),
    "format": (put(99, "format"), "its format is 99"),
    "no clock": (without("clock"), "no whole state"),
    "no steps": (without("steps"), "no whole state"),
    "no modes": (without("variables", "w", "modes"), "no whole state"),
    "no numbers": (without("generators", "numpy"), "no whole state"),
    "no such loader": (put(7, "epoch_stream"), "no whole state"),
    "a number": (put(3, "variables"), "no whole state"),
    "an optimizer's": (lambda state: state.clear(), "no state of an engine"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_state_is_refused_and_nothing_has_changed(name: str) -> None:
    change, message = OTHERS[name]
    state = reading("shuffled").engine().state_dict()
    engine = reading("shuffled").engine()
    take(engine, 2)
    before, numbers, position = held(engine), everyones(), engine.state_dict()
    change(state)
    with pytest.raises(mlopt.SettingsError, match=message):
        engine.load_state_dict(state)
    assert_same(before, held(engine))
    assert numbers == everyones()
    assert_same(position, engine.state_dict())
    twin = reading("shuffled").engine()
    take(twin, 3)
    take(engine)
    assert_same(held(twin), held(engine))


def test_what_cannot_be_read_back_is_refused_by_name() -> None:
    class Keeps(torch.optim.SGD):
        def state_dict(self) -> dict[str, Any]:
            return {**super().state_dict(), "best": object()}

    found = bilevel(
        mlp(),
        optimizer=lambda v: Keeps(v.parameters(), lr=0.1),
        hypergrad=mlopt.OneStep(lr=0.1),
    )
    with pytest.raises(mlopt.SettingsError, match=r"fit\.optimizer\.state_dict\(\)\['best'\]"):
        found.engine().state_dict()


class Told2(Lookahead):
    """A foreign optimizer that says all of what it holds."""

    def state_dict(self) -> dict[str, Any]:
        more = {"slow": self.slow, "seen": self.seen, "count": np.int64(self.count)}
        more |= {"random": self.random.getstate(), "best": np.float64(self.inner.best)}
        return {**super().state_dict(), "more": more}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        more = state.pop("more")
        super().load_state_dict(state)
        self.slow, self.seen, self.count = more["slow"], more["seen"], more["count"]
        self.random.setstate(more["random"])
        self.inner.best = more["best"]


def test_a_foreign_optimizer_resumes_by_its_own_state() -> None:
    def make() -> mlopt.Engine:
        return bilevel(
            mlp(),
            optimizer=lambda v: Told2(v.parameters(), lr=0.1),
            hypergrad=mlopt.OneStep(lr=0.1),
        ).engine()

    engine, other = make(), make()
    take(engine, 3)
    other.load_state_dict(saved(engine.state_dict()))
    take(engine, 3)
    take(other, 3)
    assert_same(held(engine), held(other))


def test_state_keeps_its_dtype() -> None:
    """Torch would cast an average in float64 to the dtype of its parameter."""

    def make() -> mlopt.Engine:
        w = torch.nn.Parameter(torch.ones(3))
        W = mlopt.Variable(w, "w")
        adam = torch.optim.Adam([w], lr=0.1, foreach=False)

        @mlopt.problem(over=W, optimizer=adam)
        def square(w: Tensor) -> Tensor:
            return (w**2).sum()

        return mlopt.Engine([square])

    engine, other = make(), make()
    engine.step()
    state = engine.graph.problems[0].optimizer.state
    held_by = next(iter(state.values()))
    held_by["exp_avg"] = held_by["exp_avg"].double() / 3
    other.load_state_dict(saved(engine.state_dict()))
    again = next(iter(other.graph.problems[0].optimizer.state.values()))
    assert torch.equal(again["exp_avg"], held_by["exp_avg"])
    assert again["exp_avg"].dtype == torch.float64


def test_frozen_parts_and_modes_come_back() -> None:
    engine, other = reading("shuffled").engine(), reading("shuffled").engine()
    net = engine.graph.variables[0].value
    take(engine, 2)
    net[0].weight.requires_grad_(False)
    net[1].eval()
    other.load_state_dict(saved(engine.state_dict()))
    take(engine, 2)
    take(other, 2)
    again = other.graph.variables[0].value
    assert not again[0].weight.requires_grad
    assert not again[1].training
    assert_same(held(engine), held(other))

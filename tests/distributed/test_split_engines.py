"""Engines read from split loaders what they read on one rank, and are resumed there to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from distributed.split_loaders import (  # noqa: F401 - a fixture
    COUNT,
    LOADERS,
    images,
    join,
    no_workers_left,
    seed_all,
    weighted,
)
from distributed.test_split_draws import Drawn, drawn_and_joined
from engine.chaos import take
from engine.test_resume import saved
from graph.test_streams import reader
from small import assert_same
from torch.utils.data import (
    DataLoader,
)

import mlopt
from mlopt.distributed import split

# Engines.


def engine_over(data: Any, seen: list[Any], seed: int = 3) -> mlopt.Engine:
    return mlopt.Engine([reader(data, seen=seen)], seed=seed)


def batches_of(data: Any, steps: int, seed: int = 3) -> list[Any]:
    seen: list[Any] = []
    engine = engine_over(data, seen, seed)
    engine.step()
    first = seen[-1]
    seen.clear()
    take(engine, steps - 1)
    return [first, *seen]


ENGINES = ["shuffled", "weighted", "lazy batches", "workers that stay", "images of workers",
           "images, all of them", "streamed", "any loader"]  # fmt: skip


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_reads_the_slices_of_what_it_reads_on_one_rank(name: str) -> None:
    seed_all()
    expected = batches_of(LOADERS[name](), 9)
    ranks = []
    for rank in range(2):
        seed_all()
        ranks.append(batches_of(split(LOADERS[name](), rank, 2), 9))
    assert_same([join(list(slices)) for slices in zip(*ranks, strict=True)], expected)


class Told(Drawn):
    """Is told of passes."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def set_epoch(self, number: int) -> None:
        self.told.append(number)


class ToldSampler(Told):
    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(COUNT).tolist())


def test_samplers_and_data_sets_are_told_of_each_pass_once() -> None:
    data, sampler = Told(), ToldSampler()
    batches_of(split(DataLoader(data, 8, sampler=sampler), 1, 2), 7)
    assert data.told == sampler.told == [0, 1, 2]


OPTIONS: dict[str, dict[str, Any]] = {
    "alone": {},
    "a generator": {"generator": 7},
    "workers": {"num_workers": 2},
    "workers that stay": {"num_workers": 2, "persistent_workers": True},
}


def augmented(name: str) -> Any:
    options = {**OPTIONS[name]}
    if "generator" in options:
        options["generator"] = torch.Generator().manual_seed(options["generator"])
    data = DataLoader(Drawn(), 5, shuffle=True, collate_fn=drawn_and_joined, **options)
    return split(data, 1, 2)


@pytest.mark.parametrize("name", OPTIONS)
def test_engines_of_one_seed_read_the_same(name: str) -> None:
    data = augmented(name)
    one, same = batches_of(data, 7), batches_of(data, 7)
    assert_same(one, same)
    other = batches_of(data, 7, seed=4)
    column = torch.cat(one)[:, 1:]
    assert not set(column.flatten().tolist()) & set(torch.cat(other)[:, 1:].flatten().tolist())
    assert len(set(column.flatten().tolist())) == column.numel()


@pytest.mark.parametrize("at", [1, 4, 6])
@pytest.mark.parametrize("name", [*OPTIONS, "images", "images of workers"])
def test_a_resumed_engine_reads_on_to_the_bit(name: str, at: int) -> None:
    def make() -> Any:
        return augmented(name) if name in OPTIONS else split(LOADERS[name](), 1, 2)

    seed_all()
    seen: list[Any] = []
    engine = engine_over(make(), seen)
    take(engine, at)
    state = saved(engine.state_dict())
    seen.clear()
    take(engine, 6)

    seed_all(5)
    again: list[Any] = []
    other = engine_over(make(), again)
    other.load_state_dict(state)
    again.clear()
    take(other, 6)
    assert_same(again[-6:], seen)


def test_a_resumed_engine_reads_no_image_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> Any:
        return split(images(augment=None), 0, 2)

    engine = engine_over(make(), [])
    take(engine, 3)
    state = saved(engine.state_dict())
    other = engine_over(make(), [])
    take(other)  # its check, on another batch
    reads: list[int] = []
    read = mlopt.data.ImageBatches._read
    monkeypatch.setattr(
        mlopt.data.ImageBatches, "_read", lambda *given: reads.append(1) or read(*given)
    )
    other.load_state_dict(state)
    take(other)
    assert len(reads) == 1


class Says(DataLoader):
    """Goes where it stood in a way of its own, which draws otherwise."""

    def __iter__(self) -> Any:
        self._iterator = super().__iter__()
        return self._iterator

    def state_dict(self) -> dict[str, Any]:
        return {"at": 1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise AssertionError("it goes through the pass again")


def stateful(*arguments: Any, **options: Any) -> Any:
    module = pytest.importorskip("torchdata.stateful_dataloader")
    return module.StatefulDataLoader(*arguments, **options)


@pytest.mark.filterwarnings("ignore:'set_vital'")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", [Says, stateful])
def test_a_loader_that_says_where_it_stands_is_resumed_too(make: Any, workers: int) -> None:
    def data(seed: int) -> Any:
        seed_all(seed)
        return split(make(Drawn(), 5, shuffle=True, num_workers=workers), 1, 2)

    seen: list[Any] = []
    engine = engine_over(data(1), seen)
    take(engine, 7)
    state = saved(engine.state_dict())
    seen.clear()
    take(engine, 5)
    again: list[Any] = []
    other = engine_over(data(2), again)
    other.load_state_dict(state)
    take(other, 5)
    assert_same(again[-5:], seen)

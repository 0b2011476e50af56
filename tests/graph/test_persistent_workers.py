"""Persistent workers are an engine's own, wherever the data loader is that keeps them."""

from __future__ import annotations

import gc
import multiprocessing
import os
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from graph.test_lent_generators import engine_over, take
from small import F64
from torch.utils.data import DataLoader, Dataset

COUNT = 4

pytestmark = pytest.mark.filterwarnings("ignore:.*fork")  # that forking is unsafe beside threads


class Numbers(Dataset):
    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.tensor(float(i), dtype=F64)


class Around:
    """As loaders are that move or prefetch batches."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader, self.fails = loader, False

    def __len__(self) -> int:
        return COUNT

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if self.fails:
                self.fails = False
                raise OSError("once")
            yield batch


class Calls(Around):
    """The data loader is not its part, but a function's."""

    def __init__(self, loader: Iterable[Any]) -> None:
        super().__init__(())
        self.make = lambda: iter(loader)

    def __iter__(self) -> Iterator[Any]:
        self.loader = self.make()
        return super().__iter__()


KINDS: dict[str, Any] = {
    "inside": Around,
    "two deep": lambda loader: Around(Around(loader)),
    "by a function": Calls,
}


#: As torch makes them; those of a loop of a test's own are ended after it.
_iterators: weakref.WeakSet[Any] = weakref.WeakSet()


@pytest.fixture(autouse=True)
def _no_workers_left() -> Iterator[None]:
    """Torch waits five seconds for each that the garbage collector finds."""
    yield
    for iterator in [*_iterators]:
        iterator._shutdown_workers()


class Stay(DataLoader):
    def __init__(self, data: Dataset, **options: Any) -> None:
        super().__init__(data, batch_size=1, num_workers=1, persistent_workers=True, **options)

    def _get_iterator(self) -> Any:
        iterator = super()._get_iterator()
        _iterators.add(iterator)
        return iterator


def made(kind: str, data: Dataset) -> tuple[DataLoader, Any]:
    loader = Stay(data)
    return loader, KINDS[kind](loader)


@pytest.mark.parametrize("kind", KINDS)
def test_two_engines_and_a_loop_do_not_disturb_each_other(kind: str) -> None:
    """Also where a draw fails: the pass is gone through again."""
    loader, around = made(kind, Numbers())
    one, two = engine_over(around), engine_over(around)
    mine: list[float] = []
    theirs: list[float] = []
    loop = iter(loader)
    for step in range(2 * COUNT + 1):
        if step == 2:
            around.fails = True
            with pytest.raises(OSError, match="once"):
                take(*one)
        mine += take(*one)
        if step % 2:
            theirs += take(*two)
        if step < COUNT:
            assert float(next(loop)) == step
        if step == COUNT + 1:
            assert [float(x) for x in around] == [0, 1, 2, 3]
    assert mine == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert theirs == [0, 1, 2, 3]
    assert one[0].epoch == 2
    assert two[0].epoch == 1


class Workers(Numbers):
    """Each batch is the process that made it."""

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.tensor(float(os.getpid()), dtype=F64)


@pytest.mark.parametrize("kind", KINDS)
def test_the_workers_stay_and_are_not_seen_outside(kind: str) -> None:
    loader, around = made(kind, Workers())
    engine = engine_over(around)
    processes = set()
    for _ in range(2 * COUNT):
        processes.update(take(*engine))
        assert loader._iterator is None
    assert len(processes) == 1
    assert os.getpid() not in processes


@pytest.mark.parametrize("seeded", [False, True])
def test_a_later_pass_that_breaks_off_keeps_its_order(seeded: bool) -> None:
    """Workers are made anew for it, which draws random numbers, as the pass had not."""

    def order(fails: tuple[int, ...]) -> list[float]:
        generator = torch.Generator().manual_seed(2) if seeded else None
        around = Around(Stay(Numbers(), shuffle=True, generator=generator))
        engine = engine_over(around)
        found: list[float] = []
        for step in range(4 * COUNT):
            if step in fails:
                around.fails = True
                with pytest.raises(OSError, match="once"):
                    take(*engine)
            found += take(*engine)
        return found

    assert order((1, COUNT, 2 * COUNT + 2, 3 * COUNT + 3)) == order(())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("circle", [False, True])
def test_those_of_an_engine_that_is_gone_end_by_themselves(
    kind: str, circle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to kill them, as torch does with those that it has waited for in vain."""
    killed: list[Any] = []
    process = multiprocessing.process.BaseProcess
    terminate = process.terminate
    monkeypatch.setattr(process, "terminate", lambda it: (killed.append(it), terminate(it)))
    before = multiprocessing.active_children()
    around = made(kind, Numbers())[1]
    engine, seen = engine_over(around)
    take(engine, seen)
    workers = [p for p in multiprocessing.active_children() if p not in before]
    assert [worker.exitcode for worker in workers] == [None]
    if circle:
        seen.append([engine])
        seen[0].append(seen)
    del engine, seen, around
    gc.collect()
    assert [worker.exitcode for worker in workers] == [0]
    assert not [worker for worker in workers if worker in killed]


def test_those_that_are_made_anew_leave_no_others() -> None:
    around = Around(Stay(Numbers()))
    engine = engine_over(around)
    before = multiprocessing.active_children()
    for step in range(2 * COUNT):
        if step % 2:
            around.fails = True
            with pytest.raises(OSError, match="once"):
                take(*engine)
        take(*engine)
        assert len(multiprocessing.active_children()) == len(before) + 1

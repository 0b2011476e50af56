"""A sampler or data set that is replaced between two passes is as good as the first one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from graph.test_lent_generators import COUNT, Data, engine_over, take
from small import F64
from torch.utils.data import DataLoader

PASSES = 4


class Order:
    """A sampler that is told the pass, and shuffles by a generator of its own."""

    def __init__(self, seed: int) -> None:
        self.seed(seed)
        self.epoch = -1

    def seed(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        return iter([(self.epoch, int(i)) for i in self.rng.permutation(COUNT)])


class Fails(Data):
    def __getitem__(self, i: Any) -> Any:
        super().__getitem__(0)
        return torch.tensor(100.0 * i[0] + i[1], dtype=F64)


class Loader:
    def __init__(self) -> None:
        self.sampler, self.dataset = Order(0), Fails()

    def __iter__(self):
        for i in self.sampler:
            yield self.dataset[i]


class Slotted:
    __slots__ = ("dataset", "sampler")

    __init__, __iter__ = Loader.__init__, Loader.__iter__


class Inside:
    def __init__(self) -> None:
        self.within = Loader()
        self.dataset = self.within.dataset

    def __iter__(self):
        return iter(self.within)


def sampler(loader: Any, number: int) -> None:
    getattr(loader, "within", loader).sampler = Order(number)


def generator(loader: Any, number: int) -> None:
    getattr(loader, "within", loader).sampler.seed(number)


@pytest.mark.parametrize("replace", [sampler, generator])
@pytest.mark.parametrize("kind", [Loader, Slotted, Inside])
def test_another_sampler_is_told_the_pass_and_lends_its_generator(
    kind: Callable[[], Any], replace: Callable[[Any, int], None]
) -> None:
    """To each of two engines, also where a draw fails."""
    loader, expected = kind(), []
    for number in range(PASSES):
        if number % 2:
            replace(loader, number)
        getattr(loader, "within", loader).sampler.set_epoch(number)
        expected += [float(x) for x in loader]

    loader = kind()
    one, two = engine_over(loader), engine_over(loader)
    mine: list[float] = []
    theirs: list[float] = []
    for step in range(PASSES * COUNT):
        number = step // COUNT
        if step % COUNT == 0 and number % 2:
            replace(loader, number)
        if step % COUNT in (0, 3):
            loader.dataset.fails = [True]
            with pytest.raises(OSError, match="once"):
                take(*one)
        mine += take(*one)
        theirs += take(*two)
    assert mine == theirs == expected


def test_a_replaced_generator_that_two_loaders_share_gives_each_other_numbers() -> None:
    class Noise:
        def __init__(self) -> None:
            self.generator = torch.Generator().manual_seed(0)

        def __iter__(self):
            return iter([torch.rand((), generator=self.generator, dtype=F64) for _ in range(2)])

    loaders = Noise(), Noise()
    engine = engine_over(*loaders)
    found = [take(*engine) for _ in range(2)]
    shared = torch.Generator().manual_seed(1)
    for loader in loaders:
        loader.generator = shared
    found += [take(*engine) for _ in range(2)]
    assert len({x for row in found[2:] for x in row}) == 4
    assert torch.equal(shared.get_state(), torch.Generator().manual_seed(1).get_state())


def test_what_is_not_replaced_is_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, tensors and entries that a data set notes of itself are no parts."""

    class Notes(Data):
        count, cache, last = 0, {}, None

        def __getitem__(self, i: int) -> Any:
            self.count += 1
            self.last = self.cache[i] = torch.tensor(float(i), dtype=F64)
            return self.last

    engine = engine_over(DataLoader(Notes(), batch_size=3, shuffle=True))
    monkeypatch.setattr("mlopt._graph.passes.holds", lambda loader: pytest.fail("looked again"))
    for _ in range(5):
        take_all(*engine)


def take_all(engine: Any, seen: list[list]) -> None:
    engine.step()

"""What a loader draws at random, it draws for each engine alone, wherever the generator is."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from graph.test_streams import reader
from small import F64
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

import mlopt

COUNT = 6

#: Kinds of generators: made of a seed, and a draw of one number.
KINDS: dict[str, tuple[Callable[[int], Any], Callable[[Any], float]]] = {
    "torch": (
        lambda seed: torch.Generator().manual_seed(seed),
        lambda g: float(torch.rand((), generator=g, dtype=F64)),
    ),
    "python": (random.Random, lambda g: g.random()),
    "numpy": (np.random.default_rng, lambda g: float(g.random())),
    "numpy, pcg": (lambda s: np.random.Generator(np.random.PCG64DXSM(s)), lambda g: g.random()),
    "numpy, old": (np.random.RandomState, lambda g: float(g.random_sample())),
}


class Noise:
    """A transform with a generator of its own."""

    def __init__(self, generator: Any, draw: Callable[[Any], float]) -> None:
        self.generator, self.draw = generator, draw

    def __call__(self, x: float) -> torch.Tensor:
        return torch.tensor(x + self.draw(self.generator), dtype=F64)


class Slotted(Noise):
    __slots__ = ("generator",)


class Data(Dataset):
    """Fails at draws that a test chooses, once each, and notes nothing of it."""

    def __init__(self, *transforms: Any) -> None:
        self.transforms, self.fails = list(transforms), []

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, i: int) -> Any:
        x: Any = float(i)
        for transform in self.transforms:
            x = transform(x)
        if self.fails and self.fails.pop():
            raise OSError("once")
        return x


class Order(Sampler):
    """A shuffle by a transform's generator."""

    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def __iter__(self):
        return iter(sorted(range(COUNT), key=lambda i: float(self.noise(0.0))))

    def __len__(self) -> int:
        return COUNT


class Inside(Sampler):
    def __init__(self, base: Sampler) -> None:
        self.base = base

    def __iter__(self):
        return iter(list(self.base))

    def __len__(self) -> int:
        return len(self.base)  # type: ignore[arg-type]


class Own:
    """A loader of the user's, that holds a generator."""

    def __init__(self, noise: Noise) -> None:
        self.noise, self.dataset = noise, Data()

    def __iter__(self):
        for i in sorted(range(COUNT), key=lambda i: float(self.noise(0.0))):
            yield torch.as_tensor(self.dataset[i])


def closing_over(noise: Noise) -> Callable[[float], torch.Tensor]:
    return lambda x: noise(x)


def collated(noise: Noise) -> Callable[[list], torch.Tensor]:
    return lambda batch: noise(float(batch[0]))


#: Where a loader may hold it.
PLACES: dict[str, Callable[[Noise], Any]] = {
    "loader": Own,
    "sampler": lambda n: DataLoader(Data(), batch_size=1, sampler=Order(n)),
    "sampler in a sampler": lambda n: DataLoader(Data(), batch_size=1, sampler=Inside(Order(n))),
    "transform": lambda n: DataLoader(Data(n), batch_size=1, shuffle=True),
    "data set in a data set": lambda n: DataLoader(Subset(Data(n), range(COUNT)), batch_size=1),
    "function": lambda n: DataLoader(Data(closing_over(n)), batch_size=1),
    "method": lambda n: DataLoader(Data(n.__call__), batch_size=1),
    "collate_fn": lambda n: DataLoader(Data(), batch_size=1, collate_fn=collated(n)),
    "slot": lambda n: DataLoader(Data(Slotted(n.generator, n.draw)), batch_size=1),
}


def data_of(loader: Any) -> Data:
    data = loader.dataset
    return data.dataset if isinstance(data, Subset) else data


def engine_over(*loaders: Any) -> tuple[mlopt.Engine, list[list]]:
    seen: list[list] = [[] for _ in loaders]
    problems = [
        reader(data, f"p{k}", notes)
        for k, (data, notes) in enumerate(zip(loaders, seen, strict=True))
    ]
    return mlopt.Engine(problems), seen


def take(engine: mlopt.Engine, seen: list[list]) -> list[float]:
    engine.step()
    return [float(notes[-1]) for notes in seen]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_engine_draws_what_it_draws_alone(kind: str, place: str) -> None:
    """Beside another engine and draws of the user's, and where a draw fails in each pass."""
    make, draw = KINDS[kind]
    alone = engine_over(PLACES[place](Noise(make(0), draw)))
    expected = [take(*alone) for _ in range(2 * COUNT)]
    generator = make(0)
    loader = PLACES[place](Noise(generator, draw))
    one, two = engine_over(loader), engine_over(loader)
    mine, theirs, failed = [], [], 0
    while len(mine) < 2 * COUNT:
        if len(mine) in (3, COUNT) and failed < 1 + (len(mine) == COUNT):
            data_of(loader).fails = [True]
        try:
            mine.append(take(*one))
        except OSError:
            failed += 1
            continue
        theirs.append(take(*two))
    assert failed == 2
    assert mine == theirs == expected
    assert draw(generator) == draw(make(0))


@pytest.mark.parametrize("kind", KINDS)
def test_two_loaders_that_share_a_generator_are_not_alike(kind: str) -> None:
    make, draw = KINDS[kind]

    def drawn(seed: int) -> list[list[float]]:
        noise = Noise(make(seed), draw)
        engine = engine_over(*(DataLoader(Data(noise), batch_size=1) for _ in range(3)))
        return [take(*engine) for _ in range(COUNT)]

    found = drawn(0)
    one, two, three = ([row[k] for row in found] for k in range(3))
    assert len({*one, *two, *three}) == 3 * COUNT
    assert found == drawn(0)
    assert found != drawn(1)
    alone = engine_over(DataLoader(Data(Noise(make(0), draw)), batch_size=1))
    assert one == [take(*alone)[0] for _ in range(COUNT)]


class Told(Dataset):
    epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 2

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.tensor(float(self.epoch), dtype=F64)


@pytest.mark.parametrize("around", [Subset, None])
def test_all_parts_of_a_loader_are_told_the_pass_and_nobody_else(around: Any) -> None:
    class Uses:
        """A transform of an object that reads other data as well."""

        def __init__(self) -> None:
            self.other = DataLoader(Told())

        def __call__(self, x: float) -> float:
            return x

    uses = Uses()
    data: Any = Subset(Subset(Told(), [0, 1]), [1, 0]) if around else Told() + Told()
    data.transform = uses
    engine, seen = engine_over(DataLoader(data, batch_size=2))
    epochs = []
    for _ in range(3 * len(data) // 2):
        engine.step()
        epochs += [int(x) for x in seen[0][-1]]
    assert epochs == [k for k in range(3) for _ in range(len(data))]
    assert uses.other.dataset.epoch == -1  # type: ignore[attr-defined]


def test_a_loader_that_counts_for_itself_is_named_where_two_engines_read_it() -> None:
    class Counts:
        passes, busy = 0, False

        def __iter__(self):
            self.passes += 1
            self.busy = not self.busy  # a flag counts nothing
            return iter([torch.tensor(float(self.passes), dtype=F64)] * 2)

    loader = Counts()
    one, two = engine_over(loader), engine_over(loader)
    for _ in range(4):  # one alone is right
        take(*one)
    with pytest.warns(mlopt.CapabilityWarning, match=r"changes Counts.passes while .*set_epoch"):
        take(*two)
    take(*two), take(*two)

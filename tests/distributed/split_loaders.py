"""Loaders of every kind, and what their slices come to together, for the tests of `split`."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    WeightedRandomSampler,
)

from mlopt.data import Cutout, WholeBatch, load, loader, standard_augmentation
from mlopt.distributed import EmptySlice

# Machines with one core, and Pythons that find starting processes beside threads unwise.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*fork"),
]

COUNT = 23
#: As torch makes them: those that a test leaves are ended after it, without torch's five seconds.
_iterators: weakref.WeakSet[Any] = weakref.WeakSet()


@pytest.fixture(autouse=True)
def no_workers_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    kind = torch.utils.data.dataloader._MultiProcessingDataLoaderIter
    begin = kind.__init__

    def noted(self: Any, *arguments: Any) -> None:
        _iterators.add(self)
        begin(self, *arguments)

    monkeypatch.setattr(kind, "__init__", noted)
    yield
    for iterator in [*_iterators]:
        iterator._shutdown_workers()
    gc.collect()


class Rows(Dataset):
    """What each sample gives tells which one it is; `reads` counts in whichever process."""

    def __init__(self) -> None:
        self.reads = torch.zeros(COUNT, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, i: Any) -> Any:
        self.reads[i] += 1
        return torch.tensor([i, i * i]), f"sample {i}"


class Named(Rows):
    """Samples that are dictionaries, in each other, with arrays."""

    def __getitem__(self, i: int) -> Any:
        x, name = super().__getitem__(i)
        return {"x": x, "inside": {"array": np.array([i, 1.5]), "name": name}}


class AtOnce(Rows):
    """Reads several samples in one call alone."""

    def __getitem__(self, i: int) -> Any:
        raise AssertionError("one by one")

    def __getitems__(self, indices: list[int]) -> Any:
        assert type(indices) is list
        return [super(AtOnce, self).__getitem__(i) for i in indices]


class Gathers(Rows):
    """Takes an index that lists samples."""

    def __getitem__(self, i: Any) -> Any:
        self.reads[i] += 1
        return torch.arange(COUNT)[i] * 3


class WholeItems(Dataset):
    """Each item is a batch, and is drawn."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Any:
        return torch.full((5, 2), i) + torch.rand(5, 2), [f"{i} {k}" for k in range(5)]


class Streamed(IterableDataset):
    """Shuffled and augmented, in one stream of numbers."""

    def __iter__(self) -> Iterator[Any]:
        return iter(torch.randperm(COUNT) + torch.rand(COUNT))


class Passes:
    """Anything that can be iterated again."""

    def __iter__(self) -> Iterator[Any]:
        return iter([(x, x.numpy() + 1) for x in torch.randperm(COUNT).split(7)])


class Eager:
    """Batches of sizes of their own, all drawn when a pass begins."""

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(COUNT).tolist()
        random.shuffle(order)
        sizes = np.random.permutation([9, 2, 8, 4])
        ends = np.cumsum(sizes).tolist()
        return iter([order[a:b] for a, b in zip([0, *ends], ends, strict=False)])

    def __len__(self) -> int:
        return 4


class Lazy(Eager):
    """The same, drawn batch by batch from all generators."""

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(4):
            draws = (torch.randint(COUNT, ()).item(), np.random.randint(COUNT))
            yield [*map(int, draws), *random.choices(range(COUNT), k=3)]


def joined_in_a_way_of_its_own(samples: list[Any]) -> Any:
    assert samples
    return torch.stack([x for x, _ in samples]).flip(1)


def images(name: str = "digits", **options: Any) -> DataLoader[Any]:
    data = load(name)
    part = data.train.take(torch.arange(60))
    augment = options.pop("augment", standard_augmentation("digits", 8))
    return loader(part, 16, augment=augment, **options)


def weighted() -> WeightedRandomSampler:
    return WeightedRandomSampler(range(1, COUNT + 1), 19)


class Noise(WholeBatch):
    """Of a user's own, which has no way to change some images only."""

    def __call__(self, images: Tensor) -> Tensor:
        return images + torch.rand(images.shape)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


#: Each makes a loader anew, for one rank as for many.
LOADERS: dict[str, Callable[[], Any]] = {
    "in order": lambda: DataLoader(Rows(), 7),
    "shuffled": lambda: DataLoader(Rows(), 7, shuffle=True),
    "drop_last": lambda: DataLoader(Rows(), 7, shuffle=True, drop_last=True),
    "its own generator": lambda: DataLoader(Rows(), 7, shuffle=True, generator=seeded()),
    "weighted": lambda: DataLoader(Rows(), 6, sampler=weighted()),
    "eager batches": lambda: DataLoader(Rows(), batch_sampler=Eager()),
    "lazy batches": lambda: DataLoader(Rows(), batch_sampler=Lazy()),
    "dictionaries": lambda: DataLoader(Named(), 9, shuffle=True),
    "getitems": lambda: DataLoader(AtOnce(), 9, shuffle=True),
    "collate_fn": lambda: DataLoader(
        Rows(), 9, shuffle=True, collate_fn=joined_in_a_way_of_its_own
    ),
    "workers": lambda: DataLoader(Named(), 7, shuffle=True, num_workers=2),
    "lazy batches of workers": lambda: DataLoader(Rows(), batch_sampler=Lazy(), num_workers=1),
    "workers that stay": lambda: DataLoader(
        Rows(), 7, shuffle=True, num_workers=2, persistent_workers=True, prefetch_factor=1
    ),
    "lists as indices": lambda: DataLoader(
        Gathers(), None, sampler=BatchSampler(RandomSampler(range(COUNT)), 7, False)
    ),
    "tensors as indices": lambda: DataLoader(
        Gathers(), None, sampler=[*torch.randperm(COUNT).split(7)], num_workers=1
    ),
    "whole items": lambda: DataLoader(WholeItems(), None, shuffle=True),
    "whole items of workers": lambda: DataLoader(WholeItems(), None, shuffle=True, num_workers=2),
    "streamed": lambda: DataLoader(Streamed(), 7),
    "streamed by workers": lambda: DataLoader(Streamed(), 7, num_workers=2),
    "any loader": Passes,
    "a list": lambda: [(torch.arange(7), [*"abcdefg"]), (torch.arange(5), [*"abcde"])],
    "a tuple": lambda: ({"x": torch.arange(8).reshape(4, 2)}, {"x": torch.ones(5, 2)}),
    "images": images,
    "images, all of them": lambda: images(finish=Cutout(4), plain=True, drop_last=True),
    "images alone, in order": lambda: images(labels=False, shuffle=False, seed=3),
    "images of workers": lambda: images(finish=Cutout(4), plain=True, workers=2),
    "images with noise": lambda: images(augment=Noise(), finish=Noise()),
    "images as they are": lambda: images(augment=None, plain=True),
}


def everyones() -> list[Any]:
    numpy = np.random.get_state(legacy=False)["state"]
    return [torch.get_rng_state(), random.getstate(), numpy["key"].copy(), numpy["pos"]]


def seed_all(seed: int = 4) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def two_passes(data: Any) -> list[Any]:
    """The batches of each, and where the generators stand after both."""
    seed_all()
    return [[*data], [*data], everyones()]


def join(slices: list[Any]) -> Any:
    """A batch of the slices of all ranks."""
    first, *_ = slices = [s for s in slices if not isinstance(s, EmptySlice)]
    if isinstance(first, Tensor):
        return torch.cat(slices)
    if isinstance(first, np.ndarray):
        return np.concatenate(slices)
    if isinstance(first, dict):
        return {key: join([s[key] for s in slices]) for key in first}
    if isinstance(first[0], str):
        return type(first)(name for names in slices for name in names)
    return type(first)(map(join, map(list, zip(*slices, strict=True))))

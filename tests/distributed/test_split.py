"""`split`: the slices of all ranks are the batches of one, and each rank reads its own samples."""

from __future__ import annotations

import gc
import pickle
import random
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from engine.chaos import take
from engine.test_resume import saved
from graph.test_streams import reader
from image_files import write_imagenet
from small import F64, assert_same
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
    get_worker_info,
)

import mlopt
from mlopt import DataError, SettingsError
from mlopt._containers.loaders import describe
from mlopt._evaluation.pieces import cut
from mlopt._graph import known
from mlopt._graph.moving import move
from mlopt.data import Cutout, WholeBatch, files, load, loader, standard_augmentation
from mlopt.distributed import EmptySlice, split

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


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("name", LOADERS)
def test_the_slices_of_all_ranks_are_the_batches_of_one(name: str, world: int) -> None:
    """To the bit, in each pass; and no generator stands elsewhere after them."""
    torch.manual_seed(1)
    *expected, standing = two_passes(LOADERS[name]())
    found = []
    for rank in range(world):
        torch.manual_seed(1)
        *passes, left = two_passes(split(LOADERS[name](), rank, world))
        assert_same(standing, left)
        found.append(passes)
    for number, batches in enumerate(expected):
        ranks = [passes[number] for passes in found]
        assert [*map(len, ranks)] == [len(batches)] * world
        assert_same([join(list(slices)) for slices in zip(*ranks, strict=True)], batches)


@pytest.mark.parametrize("world", [2, 3, 5])
def test_the_slices_are_the_parts_of_an_engine(world: int) -> None:
    """And those of NumPy, which writes none for the ranks that have no sample."""
    reads = mlopt.Engine([reader([torch.ones(1)])]).graph.problems[0]
    for samples in range(1, 12):
        x = torch.arange(samples)
        slices = [split([x], rank, world)[0] for rank in range(world)]
        parts = [part for part in np.array_split(x.numpy(), world) if len(part)]
        assert_same([s.numpy() for s in slices if s != EmptySlice()], parts)
        assert_same([s for s in slices if s != EmptySlice()], cut(reads, x, world).batches)
        assert slices[len(parts) :] == [EmptySlice()] * (world - len(parts))


@pytest.mark.parametrize("name", LOADERS)
def test_the_length_and_the_name_are_those_of_the_loader(name: str) -> None:
    plain = LOADERS[name]()
    own = split(plain, 1, 2)
    if not isinstance(plain, tuple):  # it is cut at once
        assert describe(own) == describe(plain)
        assert isinstance(plain, list) or own.split_of is plain
    assert known.makes_anew(own) == (known.makes_anew(plain) and isinstance(own, DataLoader))
    if isinstance(plain, Passes) or isinstance(getattr(plain, "dataset", 0), IterableDataset):
        with pytest.raises(TypeError):
            len(own)
    else:
        assert len(own) == len(plain)
        assert known.certain(own) == known.certain(plain) or isinstance(plain, tuple)


def in_lists() -> Any:
    return BatchSampler(RandomSampler(range(COUNT), generator=seeded()), 7, False)


#: A data set, and how it is read.
READ: dict[str, tuple[type[Rows], Callable[[], dict[str, Any]]]] = {
    "samples": (Rows, lambda: {"batch_sampler": in_lists()}),
    "getitems": (AtOnce, lambda: {"batch_sampler": in_lists()}),
    "lists": (Gathers, lambda: {"batch_size": None, "sampler": in_lists()}),
    "tensors": (
        Gathers,
        lambda: {"batch_size": None, "sampler": [*map(torch.tensor, in_lists())]},
    ),
    "arrays": (Gathers, lambda: {"batch_size": None, "sampler": [*map(np.array, in_lists())]}),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", READ)
def test_each_sample_is_read_by_one_rank(name: str, workers: int) -> None:
    reads = []
    kind, make = READ[name]
    for rank in range(3):
        data, options = kind(), make()
        own = [*split(DataLoader(data, num_workers=workers, **options), rank, 3)]
        assert int(data.reads.sum()) == [10, 7, 6][rank]  # of batches of 7, 7, 7, 2
        assert isinstance(own[-1], EmptySlice) == (rank == 2)
        reads.append(data.reads.clone())
    assert sum(reads).tolist() == [1] * COUNT


def test_images_in_files_are_read_by_one_rank(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load("imagenet", write_imagenet(tmp_path / "imagenet", images=7), image_size=12)
    read: list[str] = []
    one_by_one = files.read_image

    def noted(path: Any) -> Tensor:
        read.append(str(path))
        return one_by_one(path)

    monkeypatch.setattr(files, "read_image", noted)

    def batches() -> DataLoader[Any]:
        crop = standard_augmentation("cifar10", 12)
        return loader(data.train, 5, augment=crop, finish=Cutout(4), seed=1)

    expected = [*batches()]
    paths = read.copy()
    assert len(set(paths)) == len(paths) == len(data.train)
    read.clear()
    ranks = [[*split(batches(), rank, 2)] for rank in range(2)]
    assert sorted(read) == sorted(paths)
    assert_same([join(list(slices)) for slices in zip(*ranks, strict=True)], expected)


@pytest.mark.parametrize("name", [n for n in LOADERS if "list" not in n and "tuple" not in n])
def test_what_is_not_said_here_stays_as_it_was(name: str) -> None:
    plain = LOADERS[name]()
    before = {**vars(plain)}
    own = split(plain, 0, 2)
    assert vars(plain) == before
    if isinstance(plain, DataLoader) and not isinstance(plain.dataset, IterableDataset):
        assert type(own) is type(plain)
        batches = {"sampler"} if plain.batch_sampler is None else {"batch_sampler"}
        changed = {k for k, v in vars(own).items() if v is not before.get(k)}
        more = {"worker_init_fn"} if plain.num_workers else set()
        assert changed == batches | more | {"dataset", "collate_fn", "split_of"}
        assert own.dataset.split_of is plain.dataset


# What samples draw.


class Drawn(Dataset):
    """A sample is its index, and a number from each generator."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, i: int) -> Tensor:
        draws = [torch.rand((), dtype=F64).item(), np.random.rand(), random.random()]
        return torch.tensor([i, *draws], dtype=F64)


def drawn_and_joined(samples: list[Tensor]) -> Tensor:
    """Draws once more for each sample, and sometimes more than that."""
    torch.rand(len(samples))
    more = torch.rand(len(samples), 1, dtype=F64)
    return torch.cat([torch.stack(samples), more], 1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sampler", [Eager, Lazy])
def test_samples_draw_other_numbers_on_each_rank_and_samplers_the_same(
    sampler: type[Eager], workers: int
) -> None:
    def batches(rank: int) -> tuple[list[Tensor], list[Any]]:
        data = DataLoader(
            Drawn(), batch_sampler=sampler(), num_workers=workers, collate_fn=drawn_and_joined
        )
        seed_all()
        return [*split(data, rank, 2)], everyones()

    (one, left), (other, there) = batches(0), batches(1)
    assert_same(left, there)
    rows = torch.cat([torch.cat(pair) for pair in zip(one, other, strict=True)])
    seed_all()
    [*expected] = DataLoader(range(COUNT), batch_sampler=sampler(), num_workers=workers)
    assert rows[:, 0].tolist() == torch.cat(expected).tolist()
    for column in rows[:, 1:].T:
        assert len(set(column.tolist())) == len(rows)
    again, _ = batches(1)
    assert_same(again, other)


def test_passes_draw_other_numbers() -> None:
    for options in ({}, {"generator": seeded()}, {"num_workers": 1}):
        own = split(DataLoader(Drawn(), 4, **options), 1, 2)
        passes = [torch.cat([*own]) for _ in range(2)]
        assert_same(passes[0][:, 0], passes[1][:, 0])
        draws = torch.cat(passes)[:, 1:]
        assert len(draws.unique()) == draws.numel()


class Begun(Dataset):
    """Says how its worker has begun."""

    numbers: tuple[Any, ...] = ()

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> Any:
        return self.numbers


def begin(worker: int) -> None:
    info: Any = get_worker_info()
    own = np.random.default_rng(info.seed)
    info.dataset.numbers = (
        info.seed, torch.initial_seed(), torch.randint(2**60, ()).item(),
        np.random.randint(2**60), random.getrandbits(60), int(own.integers(2**60)),
    )  # fmt: skip


def test_workers_begin_with_seeds_of_their_ranks_own_and_the_users_data_set() -> None:
    found = []
    for rank in range(2):
        data = DataLoader(Begun(), 4, num_workers=2, worker_init_fn=begin, generator=seeded())
        found += [torch.stack(batch)[:, 0] for batch in split(data, rank, 2)]
    assert len(found) == 4  # of two workers on two ranks
    for column in torch.stack(found).T:
        assert len(set(column.tolist())) == 4


def test_functions_of_single_images_draw_as_on_one_rank_on_the_first() -> None:
    """The other ranks draw other numbers: two images in the same place are not changed alike."""

    def batches(rank: int | None) -> list[Tensor]:
        part = load("digits").train.take(torch.zeros(24, dtype=torch.int64))  # the same image
        data = loader(part, 12, augment=noisy, finish=Noise(), labels=False, seed=2)
        return [*data] if rank is None else [*split(data, rank, 3)]

    whole, *ranks = [torch.stack(batches(rank)) for rank in (None, 0, 1, 2)]
    found = torch.cat(ranks, 1)
    assert found.shape == whole.shape
    assert len(found.flatten(0, 1).unique(dim=0)) == 24
    without = [torch.stack([*split(each(None), rank, 3)]) for rank in range(3)]
    alone = torch.stack([*each(None)])
    assert_same(without[0], alone[:, :4])
    assert all(not torch.equal(one, alone[:, :4]) for one in without[1:])


@pytest.mark.parametrize("rank", [0, 1])
def test_changes_of_single_images_draw_other_numbers_one_after_another(rank: int) -> None:
    drawn: list[float] = []

    def noted(image: Tensor) -> Tensor:
        drawn.append(torch.rand((), dtype=F64).item())
        return image

    list(split(images(augment=noted, finish=noted), rank, 2))
    assert len(set(drawn)) == len(drawn) == 2 * 30


def noisy(image: Tensor) -> Tensor:
    return image + torch.rand(())


def each(finish: Any) -> DataLoader[Any]:
    part = load("digits").train.take(torch.zeros(24, dtype=torch.int64))
    return loader(part, 12, augment=noisy, finish=finish, labels=False, seed=2)


class Half(WholeBatch):
    """Loses images."""

    def __call__(self, images: Tensor) -> Tensor:
        return images[::2]


def test_a_change_of_whole_batches_is_checked_as_on_one_rank() -> None:
    with pytest.raises(DataError, match=r"augment=Half returned a tensor \(8, 1, 8, 8\)"):
        next(iter(split(images(augment=Half()), 0, 2)))


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


# Fewer samples than ranks.


#: With the samples of each batch; whole items are cut after they have been read.
SMALL: dict[str, tuple[Callable[[int], Any], list[int]]] = {
    "samples": (
        lambda workers: DataLoader(
            Rows(), 10, collate_fn=joined_in_a_way_of_its_own, num_workers=workers
        ),
        [10, 10, 3],
    ),
    "lists as indices": (
        lambda workers: DataLoader(Gathers(), None, sampler=[[3], [4, 5, 6]], num_workers=workers),
        [1, 3],
    ),
    "whole items": (
        lambda workers: DataLoader(WholeItems(), None, sampler=[1, 2], num_workers=workers),
        [5, 5],
    ),
    "images": (lambda workers: images(workers=workers), [16, 16, 16, 12]),
    "a list": (lambda _: [torch.ones(2, 3)], [2]),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", SMALL)
def test_a_rank_without_samples_gets_an_empty_slice(name: str, workers: int) -> None:
    make, sizes = SMALL[name]
    for rank in (2, 12):
        own = [*split(make(workers), rank, 13)]
        assert [batch == EmptySlice() for batch in own] == [rank >= size for size in sizes]


def test_a_batch_without_samples_is_the_first_ranks() -> None:
    data = [torch.ones(0, 3)]
    assert split(data, 0, 2)[0].shape == (0, 3)
    assert split(data, 1, 2) == [EmptySlice()]


def test_an_empty_slice_is_one_wherever_it_has_been() -> None:
    empty = EmptySlice()
    assert pickle.loads(pickle.dumps(empty)) == empty == EmptySlice()
    assert empty != ()
    assert move(empty, torch.device("cpu")) is empty
    assert repr(empty) == "EmptySlice()"
    assert len({empty, EmptySlice()}) == 1


# Errors.


def test_one_rank_reads_the_loader_itself() -> None:
    data = DataLoader(Rows(), 7)
    assert split(data) is data
    assert split(data, 0, 1) is data


def test_ranks_that_are_none() -> None:
    data = DataLoader(Rows(), 7)
    with pytest.raises(SettingsError, match=r"split\(rank=2, world=2\).*below"):
        split(data, 2, 2)
    for given in ({"rank": 0}, {"world": 2}):
        with pytest.raises(SettingsError, match="give both, or neither"):
            split(data, **given)
    with pytest.raises(SettingsError, match=r"split\(rank=-1\)"):
        split(data, -1, 2)
    with pytest.raises(SettingsError, match=r"split\(world=0\)"):
        split(data, 0, 0)


class Sharing(Eager):
    num_replicas = 4


@pytest.mark.parametrize(
    "make",
    [
        lambda s: DataLoader(Rows(), 7, sampler=s),
        lambda s: DataLoader(Rows(), batch_sampler=BatchSampler(s, 7, False)),
        lambda s: DataLoader(Rows(), None, sampler=BatchSampler(s, 7, False)),
        lambda s: DataLoader(Rows(), batch_sampler=Sharing()),
        lambda s: split(DataLoader(Rows(), 7), 0, 4),
        lambda s: split(Passes(), 0, 4),
        lambda s: split(images(), 0, 4),
    ],
)
def test_what_a_loader_shares_already_is_not_shared_again(make: Callable[[Any], Any]) -> None:
    data = make(DistributedSampler(range(COUNT), num_replicas=4, rank=1))
    with pytest.raises(DataError, match=r"one of 4 ranks its samples already.*Use it as it is"):
        split(data, 1, 4)


def test_a_sampler_of_one_rank_shares_nothing() -> None:
    sampler = DistributedSampler(range(COUNT), num_replicas=1, rank=0)
    own = split(DataLoader(Rows(), 7, sampler=sampler), 1, 2)
    assert len([*own]) == 4


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (iter([torch.ones(3)]), "an iterator"),
        ({"x": torch.ones(3)}, "takes a loader, got a dict"),
        (torch.ones(3), "takes a loader, got a Tensor"),
        (Rows(), "got the data set Rows"),
        ([], "has no batches"),
    ],
)
def test_what_is_no_loader(data: Any, said: str) -> None:
    with pytest.raises(DataError, match=rf"split: loader=.*{said}"):
        split(data, 0, 2)


def test_batches_that_cannot_be_cut() -> None:
    with pytest.raises(DataError, match=r"split: a batch of list holds tensors of 3, 4 in dim"):
        split([(torch.ones(3), torch.ones(4))], 0, 2)
    with pytest.raises(DataError, match="sparse or nested tensors.*loader of its own rows"):
        split([torch.eye(3).to_sparse()], 0, 2)
    with pytest.raises(DataError, match="holds no tensor"):
        next(iter(split(DataLoader(["a", "b"], None), 0, 2)))


def test_slices_of_a_list_are_views() -> None:
    x = torch.arange(6)
    one, other = (split([x], rank, 2)[0] for rank in range(2))
    x += 1
    assert one.tolist() == [1, 2, 3]
    assert other.tolist() == [4, 5, 6]


def test_workers_that_stay_are_the_loaders_own() -> None:
    data = LOADERS["workers that stay"]()
    first = next(iter(data))
    own = split(data, 0, 2)
    assert own._iterator is None
    assert len([*own]) == len(data)
    assert data._iterator is not own._iterator
    assert first[0].shape == (7, 2)


def test_a_data_set_can_be_looked_at() -> None:
    own = split(DataLoader(Rows(), 7), 1, 2)
    assert own.dataset[3][1] == "sample 3"
    assert len(own.dataset) == COUNT
    assert isinstance(own.sampler, SequentialSampler)

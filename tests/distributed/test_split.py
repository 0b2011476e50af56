"""`split`: the slices of all ranks are the batches of one, and each rank reads its own samples."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from distributed.split_loaders import (  # noqa: F401 - a fixture
    COUNT,
    LOADERS,
    AtOnce,
    Eager,
    Gathers,
    Passes,
    Rows,
    WholeItems,
    images,
    join,
    joined_in_a_way_of_its_own,
    no_workers_left,
    seeded,
    two_passes,
)
from graph.test_streams import reader
from image_files import write_imagenet
from small import assert_same
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

import mlopt
from mlopt import DataError, SettingsError
from mlopt._containers.loaders import describe
from mlopt._evaluation.pieces import cut
from mlopt._graph import known
from mlopt._graph.moving import move
from mlopt.data import Cutout, files, load, loader, standard_augmentation
from mlopt.distributed import EmptySlice, split


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

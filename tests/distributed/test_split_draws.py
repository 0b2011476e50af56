"""What samples of a split loader draw: other numbers on each rank, of which the samplers agree."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from distributed.split_loaders import (  # noqa: F401 - a fixture
    COUNT,
    Eager,
    Lazy,
    Noise,
    everyones,
    images,
    no_workers_left,
    seed_all,
    seeded,
)
from small import F64, assert_same
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    get_worker_info,
)

from mlopt import DataError
from mlopt.data import WholeBatch, load, loader
from mlopt.distributed import split

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

"""The two parts of the training images."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mlopt._errors import DataError, SettingsError
from mlopt.data import load, search_split, split_indices


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("seed", [None, 0, 5])
def test_the_halves_are_disjoint_and_complete(colours, seed, in_order) -> None:
    data = dataclasses.replace(colours, split_in_order=in_order)
    train, valid = split_indices(data, seed)
    assert sorted([*train.tolist(), *valid.tolist()]) == list(range(31))
    assert abs(len(train) - len(valid)) == 1


def test_in_order_without_a_seed(colours) -> None:
    data = dataclasses.replace(colours, split_in_order=True)
    assert split_indices(data)[0].tolist() == list(range(15))
    assert split_indices(data, seed=0)[0].tolist() != list(range(15))


def test_parts_hold_images_with_their_labels(colours) -> None:
    for part in search_split(colours):
        index = part.images[:, 0, 0, 0].long()
        assert torch.equal(part.images, colours.train_images[index])
        assert torch.equal(part.labels, colours.train_labels[index])


def test_shuffled_halves_are_balanced() -> None:
    train, valid = search_split(load("digits"))
    assert (len(train), len(valid)) == (676, 676)
    difference = train.labels.bincount() - valid.labels.bincount()
    assert difference.abs().max() <= 1


def test_a_seed_fixes_the_split_and_moves_no_global_state(colours) -> None:
    state = torch.get_rng_state()
    first, again, other = (split_indices(colours, seed)[0].tolist() for seed in (7, 7, 8))
    assert first == again != other
    assert split_indices(colours)[0].tolist() == split_indices(colours, 0)[0].tolist()
    assert torch.equal(torch.get_rng_state(), state)


def test_one_image_cannot_be_split(colours) -> None:
    one = colours.train.take(torch.tensor([4]))
    data = dataclasses.replace(colours, train_images=one.images, train_labels=one.labels)
    with pytest.raises(DataError, match="at least two"):
        search_split(data)


def with_classes(colours, counts):
    """A data set with so many images of each class, in a mixed order."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    return dataclasses.replace(
        colours,
        train_images=torch.zeros(len(labels), 3, 6, 6),
        train_labels=labels,
        class_names=tuple(f"class {c}" for c in range(len(counts))),
    )


@pytest.mark.parametrize("seed", [None, 5])
def test_shares_of_each_class(colours, seed) -> None:
    data = with_classes(colours, [1300, 732, 13, 2, 0, 1050])
    train, valid = split_indices(data, seed, shares=(0.1, 0.025))
    assert data.train_labels[train].bincount(minlength=6).tolist() == [130, 73, 1, 1, 0, 105]
    assert data.train_labels[valid].bincount(minlength=6).tolist() == [32, 18, 1, 1, 0, 26]
    both = torch.cat([train, valid])
    assert len(both.unique()) == len(both)
    again = split_indices(data, seed, shares=(0.1, 0.025))
    assert torch.equal(torch.cat(again), both)
    other = split_indices(data, 6, shares=(0.1, 0.025))
    assert sorted(other[0].tolist()) != sorted(train.tolist())
    own = dataclasses.replace(data, search_shares=(0.1, 0.025))
    assert torch.equal(torch.cat(split_indices(own, seed)), both)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.1), (0.01, 0.99), (1 / 3, 2 / 3)])
@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_each_part_has_every_class_and_none_has_too_many(colours, shares, count) -> None:
    data = with_classes(colours, [count] * 3)
    train, valid = split_indices(data, shares=shares)
    assert len(torch.cat([train, valid]).unique()) == len(train) + len(valid) == 3 * count
    for part in (train, valid):
        assert data.train_labels[part].bincount(minlength=3).min() >= 1


def test_what_subsets_refuse(colours) -> None:
    with pytest.raises(DataError, match="class class 1 has one training image"):
        search_split(with_classes(colours, [4, 1, 4]), shares=(0.1, 0.1))
    for shares in ((0.0, 0.5), (0.6, 0.5), (0.5, -0.1), (float("nan"), 0.1)):
        with pytest.raises(SettingsError, match="shares"):
            search_split(colours, shares=shares)

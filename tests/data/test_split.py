"""The two halves of the training images."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mlopt._errors import DataError
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

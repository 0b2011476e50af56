"""Loaders: what the batches hold, in which order, and at what cost."""

from __future__ import annotations

import time

import pytest
import torch

from mlopt._errors import SettingsError
from mlopt.data import load, loader, search_split, standard_augmentation


def index(data, x: torch.Tensor) -> list[int]:
    """Which image of the fixture each is: its first pixel."""
    pixels = (x[:, 0, 0, 0] * data.std[0] + data.mean[0]) * 255
    return pixels.round().long().tolist()


def test_in_order_without_shuffle(colours) -> None:
    batches = list(loader(colours.test, 3, shuffle=False))
    assert [len(y) for _, y in batches] == [3, 3, 1]
    x = torch.cat([x for x, _ in batches])
    y = torch.cat([y for _, y in batches])
    torch.testing.assert_close(x, colours.normalization.from_pixels(colours.test_images))
    assert y.tolist() == colours.test_labels.tolist()


def test_a_shuffled_pass_has_every_image_once_with_its_label(colours) -> None:
    batches = list(loader(colours.train, 8, seed=0))
    order = [i for x, _ in batches for i in index(colours, x)]
    assert sorted(order) == list(range(31))
    assert order != list(range(31))
    labels = torch.cat([y for _, y in batches])
    assert labels.tolist() == colours.train_labels[order].tolist()


def test_drop_last(colours) -> None:
    batches = loader(colours.train, 8, drop_last=True)
    assert len(batches) == 3
    assert {len(y) for _, y in batches} == {8}


def test_the_shuffles_seed(colours) -> None:
    def order(seed):
        return [y for _, ys in loader(colours.train, 31, seed=seed) for y in ys.tolist()]

    assert order(1) == order(1) != order(2)
    assert order(torch.Generator().manual_seed(1)) == order(1)
    batches = loader(colours.train, 31, seed=1)
    passes = [next(iter(batches))[1].tolist() for _ in range(2)]
    assert passes[0] != passes[1]


def test_without_a_seed_the_global_generator_decides(colours) -> None:
    batches = loader(colours.train, 31)
    orders = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        orders.append(index(colours, next(iter(batches))[0]))
    assert orders[0] == orders[1] != orders[2]


def test_augmented_and_plain_images(colours) -> None:
    batches = loader(
        colours.train, 31, augment=lambda image: image.flip(-1), plain=True, shuffle=False
    )
    x, y, plain = next(iter(batches))
    expected = colours.normalization.from_pixels(colours.train_images)
    torch.testing.assert_close(plain, expected)
    torch.testing.assert_close(x, expected.flip(-1))
    assert y.tolist() == colours.train_labels.tolist()


def test_without_augmentation_plain_is_x(colours) -> None:
    x, _, plain = next(iter(loader(colours.train, 31, plain=True)))
    assert torch.equal(x, plain)


def test_finish_comes_last_on_normalized_images(colours) -> None:
    seen = []

    def hole(image: torch.Tensor) -> torch.Tensor:
        seen.append(image.min().item())
        return image * 0

    x, _, plain = next(iter(loader(colours.train, 31, finish=hole, plain=True)))
    assert x.abs().max() == 0
    assert plain.abs().max() > 0
    assert min(seen) < 0  # normalized, not pixels


def test_each_image_has_its_own_randomness() -> None:
    data = load("digits")
    part = data.train.take(torch.zeros(64, dtype=torch.int64))  # 64 times the same image
    torch.manual_seed(0)
    augment = standard_augmentation("digits", 8)
    x, _, plain = next(iter(loader(part, 64, augment=augment, plain=True)))
    assert len(x.unique(dim=0)) == 9
    assert len(plain.unique(dim=0)) == 1


def test_workers_give_the_same_pass_again(colours) -> None:
    def passes():
        torch.manual_seed(3)
        batches = loader(
            colours.train, 8, augment=standard_augmentation("cifar10", 6), seed=0, workers=1
        )
        return torch.cat([x for x, _ in batches])

    assert torch.equal(passes(), passes())


def test_one_item_is_a_row_of_a_batch(colours) -> None:
    dataset = loader(colours.train, 8).dataset
    x, y = dataset[5]
    assert x.shape == (3, 6, 6)
    assert (index(colours, x[None]), y.item()) == ([5], 5 % 3)


def test_what_is_refused(colours) -> None:
    with pytest.raises(SettingsError, match="batch_size=0"):
        loader(colours.train, 0)
    with pytest.raises(SettingsError, match="workers=-1"):
        loader(colours.train, 1, workers=-1)
    with pytest.raises(SettingsError, match="no batch of the 7 images of colours"):
        loader(colours.test, 8, drop_last=True)


def test_a_batch_of_digits_costs_well_under_a_millisecond() -> None:
    batches = loader(search_split(load("digits"))[0], 64, plain=True)
    list(batches)
    costs = []
    for _ in range(10):
        start = time.perf_counter()
        count = len(list(batches))
        costs.append((time.perf_counter() - start) / count)
    assert min(costs) < 1e-3  # measured: 0.1 ms

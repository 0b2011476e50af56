"""Images without labels: held out of the training images, or another data set's."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from compare import exact, rounding

from mlopt._errors import DataError, SettingsError
from mlopt.data import hold_out, images_of, load, loader, search_split


def index(part) -> list[int]:
    """Which image of the fixture each is: its first pixel."""
    return part.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("one_in", [2, 3, 4])
@pytest.mark.parametrize("seed", [None, 0, 5])
def test_held_out_images_are_no_longer_in_the_data_set(colours, one_in, seed) -> None:
    rest, held = hold_out(colours, one_in, seed)
    assert sorted(index(held) + index(rest.train)) == list(range(31))
    assert len(held) == 31 // one_in
    assert index(rest.train) == sorted(index(rest.train))  # in the old order
    assert torch.equal(held.images, colours.train_images[index(held)])
    assert torch.equal(rest.train_labels, colours.train_labels[index(rest.train)])
    assert rest.test_images is colours.test_images


def test_a_third_of_the_digits_is_as_large_as_either_half_of_the_rest() -> None:
    data = load("digits")
    rest, held = hold_out(data)
    train, valid = search_split(rest)
    assert [len(part) for part in (train, valid, held)] == [451, 451, 450]
    counts = torch.stack([part.labels.bincount() for part in (train, valid, held)])
    assert (counts.max(0).values <= counts.min(0).values + 2).all()


def test_the_seed_fixes_what_is_held_out_and_moves_no_global_state(colours) -> None:
    state = torch.get_rng_state()
    first, again, other = (index(hold_out(colours, seed=seed)[1]) for seed in (7, 7, 8))
    assert first == again != other
    assert index(hold_out(colours)[1]) == index(hold_out(colours, seed=0)[1])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("one_in", [1, 0, -1, 32])
def test_what_cannot_be_held_out(colours, one_in) -> None:
    with pytest.raises(DataError, match=f"one_in={one_in}"):
        hold_out(colours, one_in)


def test_another_data_sets_images_are_normalized_as_ones_own(colours) -> None:
    """Brightness from the other's pixel_max, mean and deviation from one's own data."""
    other = dataclasses.replace(
        colours,
        name="dim",
        train_images=torch.full((4, 3, 6, 6), 8, dtype=torch.uint8),
        train_labels=torch.tensor([0, 1, 1, 0]),
        class_names=("dark", "light"),
        mean=(0.1, 0.1, 0.1),
        std=(1.0, 1.0, 1.0),
        test_images=torch.full((1, 3, 6, 6), 8, dtype=torch.uint8),
        test_labels=torch.tensor([0]),
        pixel_max=16.0,
    )
    (x,) = loader(images_of(other, like=colours), 4, labels=False)
    expected = torch.tensor([(0.5 - m) / s for m, s in zip(colours.mean, colours.std, strict=True)])
    # a difference and a quotient, or a product and a sum, in float32; some of it cancels
    bound = rounding(10, condition=4, dtype=torch.float32)
    exact(x, expected.view(1, 3, 1, 1).expand(4, 3, 6, 6), bound)


def test_images_of_another_shape_are_refused(colours) -> None:
    with pytest.raises(DataError, match=r"colours for digits.*\(3, 6, 6\), not \(1, 8, 8\)"):
        images_of(colours, like=load("digits"))


def test_a_batch_without_labels_is_the_images(colours) -> None:
    with_labels = list(loader(colours.train, 8, seed=3))
    without = list(loader(colours.train, 8, seed=3, labels=False))
    assert all(torch.equal(x, u) for (x, _), u in zip(with_labels, without, strict=True))
    data = loader(colours.train, 8, labels=False).dataset
    assert torch.equal(data[5], colours.normalization.from_pixels(colours.train_images[5]))


def test_plain_images_come_with_labels(colours) -> None:
    with pytest.raises(SettingsError, match="plain=True comes with labels"):
        loader(colours.train, 8, plain=True, labels=False)

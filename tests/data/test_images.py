"""What `ImageData` refuses, and `load` of an unknown name."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mlopt._errors import DataError
from mlopt.data import ImagePart, load


def test_unknown_name_lists_the_names() -> None:
    with pytest.raises(DataError, match="'mnist'.*digits, fashion-mnist, cifar10, cifar100"):
        load("mnist")


def test_properties(colours) -> None:
    assert (colours.classes, colours.channels, colours.image_size) == (3, 3, 6)
    assert (len(colours.train), len(colours.test)) == (31, 7)
    assert colours.train.images is colours.train_images


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": torch.arange(30) % 3}, "31 images but 30 labels"),
        ({"test_labels": torch.tensor([0, 1, 2, 3, 0, 1, 2])}, r"test part: .* 0\.\.3.* 3 classes"),
        ({"test_labels": torch.tensor([0, 1, 2, -1, 0, 1, 2])}, r"range over -1\.\.2"),
        ({"train_labels": torch.zeros(31)}, "int64"),
        ({"train_images": torch.zeros(31, 1, 6, 6)}, r"\(31, 1, 6, 6\)"),
        ({"train_images": torch.zeros(31, 3, 6, 5)}, r"\(31, 3, 6, 5\)"),
        ({"train_images": torch.zeros(31, 3, 8, 8)}, "they must agree"),
        (
            {"train_images": torch.full((31, 3, 6, 6), 256.0)},
            r"256\.\.256; give .* 0\.\.255",
        ),
        ({"train_images": torch.full((31, 3, 6, 6), -0.5)}, "give pixels in"),
        ({"train_images": torch.full((31, 3, 6, 6), float("nan"))}, "give pixels in"),
        ({"train_images": torch.zeros(31, 3, 6, 6, dtype=torch.int64)}, "torch.int64"),
        ({"pixel_max": 16.0}, r"give pixels in 0\.\.16"),
        (
            {"test_images": torch.zeros(0, 3, 6, 6), "test_labels": torch.zeros(0).long()},
            "test part: no images",
        ),
    ],
)
def test_what_is_refused(colours, changes, message) -> None:
    with pytest.raises(DataError, match=message):
        dataclasses.replace(colours, **changes)


def test_an_empty_part_is_refused(colours) -> None:
    with pytest.raises(DataError, match="colours, indices have shape"):
        colours.train.take(torch.zeros(0, dtype=torch.int64))
    with pytest.raises(DataError, match="31 images but 7 labels"):
        ImagePart(colours, colours.train_images, colours.test_labels)

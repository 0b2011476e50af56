"""The two halves of the training images that an architecture search uses."""

from __future__ import annotations

import torch
from torch import Tensor

from mlopt._errors import DataError
from mlopt.data.images import ImageData, ImagePart

__all__ = ["search_split", "split_indices"]


def search_split(data: ImageData, seed: int | None = None) -> tuple[ImagePart, ImagePart]:
    """Cut the training images in half: one half trains weights, one validates architectures.

    Without a seed, CIFAR follows DARTS: the first half trains, the second validates, in order. The
    other data sets, and CIFAR with a seed, are shuffled; each half then has the same number of
    images of every class, up to one. The halves are disjoint, their union is the training set, and
    the same seed gives the same halves on every machine. Test images are not touched.

    Args:
        data: a data set.
        seed: seed of the shuffle; no seed means the data set's own rule, always the same.

    Returns:
        The training half, which has the extra image of an odd number if the cut is a shuffle, and
        the validation half.

    Raises:
        DataError: fewer than two training images.
    """
    train, valid = split_indices(data, seed)
    return data.train.take(train), data.train.take(valid)


def split_indices(data: ImageData, seed: int | None = None) -> tuple[Tensor, Tensor]:
    """Indices of the two halves of `search_split` among the training images.

    Args:
        data: a data set.
        seed: as in `search_split`.

    Returns:
        Indices of the training half and of the validation half, each (about N/2,), int64.

    Raises:
        DataError: fewer than two training images.
    """
    count = len(data.train_labels)
    if count < 2:
        raise DataError(f"{data.name}: {count} training image cannot be split; give at least two.")
    if seed is None and data.split_in_order:
        indices = torch.arange(count)
        return indices[: count // 2], indices[count // 2 :]
    order = by_class(data, seed)
    return order[0::2], order[1::2]


def by_class(data: ImageData, seed: int | None = None) -> Tensor:
    """Indices of the training images class by class, shuffled within each.

    Dealt out in turn they give parts of equal classes, up to one image of each class.

    Args:
        data: a data set.
        seed: of the shuffle; none means 0.

    Returns:
        Indices, (N,), int64.
    """
    generator = torch.Generator().manual_seed(0 if seed is None else seed)
    shuffled = torch.randperm(len(data.train_labels), generator=generator)
    return shuffled[torch.argsort(data.train_labels[shuffled], stable=True)]

"""The two parts of the training images that an architecture search uses."""

from __future__ import annotations

import torch
from torch import Tensor

from mlopt._arguments import a_seed, checked, within
from mlopt._errors import DataError, SettingsError
from mlopt.data.images import ImageData, ImagePart

__all__ = ["search_split", "split_indices"]


@checked(SettingsError, seed=a_seed, shares=within("(0, 1]"))
def search_split(
    data: ImageData, seed: int | None = None, shares: tuple[float, float] | None = None
) -> tuple[ImagePart, ImagePart]:
    """Cut the training images in two parts: one trains weights, one validates architectures.

    The parts are halves, or for ImageNet subsets: 10 % and 2.5 % of the images of each class, as
    PC-DARTS. `shares` makes subsets of any data set.

    Without a seed, CIFAR's halves follow DARTS: the first trains, the second validates, in order.
    The other halves, and CIFAR's with a seed, are shuffled; each then has the same number of images
    of every class, up to one, and their union is the training set. Of a subset, each class gives
    the nearest number of images, and at least one to each part. The parts are disjoint, and the
    same seed gives the same parts on every machine. Test images are not touched.

    Args:
        data: a data set.
        seed: seed of the shuffle; no seed means the data set's own rule, always the same.
        shares: of each class's images, for training and for validation; None means the data set's
            own rule.

    Returns:
        The training part, which has the extra image of an odd number if the cut is a shuffle, and
        the validation part.

    Raises:
        DataError: fewer than two training images, or of a class, for subsets.
        SettingsError: a share is not positive, or they add up to more than 1.
    """
    train, valid = split_indices(data, seed, shares)
    return data.train.take(train), data.train.take(valid)


@checked(SettingsError, seed=a_seed, shares=within("(0, 1]"))
def split_indices(
    data: ImageData, seed: int | None = None, shares: tuple[float, float] | None = None
) -> tuple[Tensor, Tensor]:
    """Indices of the two parts of `search_split` among the training images.

    Args:
        data: a data set.
        seed: as in `search_split`.
        shares: as in `search_split`.

    Returns:
        Indices of the training part and of the validation part, int64; about (N/2,) each for
        halves.

    Raises:
        DataError: fewer than two training images, or of a class, for subsets.
        SettingsError: a share is not positive, or they add up to more than 1.
    """
    count = len(data.train_labels)
    if count < 2:
        raise DataError(f"{data.name}: {count} training image cannot be split; give at least two.")
    if shares is None:
        shares = data.search_shares
    if shares is not None:
        return _subsets(data, seed, shares)
    if seed is None and data.split_in_order:
        indices = torch.arange(count)
        return indices[: count // 2], indices[count // 2 :]
    order = by_class(data, seed)
    return order[0::2], order[1::2]


def _subsets(
    data: ImageData, seed: int | None, shares: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    if not (min(shares) > 0 and sum(shares) < 1 + 1e-9):
        raise SettingsError(
            f"search_split, split_indices: shares={shares} must be positive and at most 1 together."
        )
    counts = data.train_labels.bincount(minlength=data.classes).tolist()
    train, valid = [], []
    for name, images in zip(data.class_names, by_class(data, seed).split(counts), strict=True):
        count = len(images)
        if count == 1:
            raise DataError(
                f"{data.name}: class {name} has one training image, and a search needs one to "
                "train and one to validate; give at least two."
            )
        first = min(max(1, round(shares[0] * count)), count - 1) if count else 0
        second = min(max(1, round(shares[1] * count)), count - first)
        train.append(images[:first])
        valid.append(images[first : first + second])
    return torch.cat(train), torch.cat(valid)


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

"""Images without labels for a search: of another data set, or held out of the training images."""

from __future__ import annotations

import dataclasses

import torch

from mlopt._arguments import a_seed, checked, within
from mlopt._errors import DataError
from mlopt.data.images import ImageData, ImagePart
from mlopt.data.split import by_class

__all__ = ["hold_out", "images_of"]


@checked(DataError, one_in=within("[2, inf)"), seed=a_seed)
def hold_out(
    data: ImageData, one_in: int = 3, seed: int | None = None
) -> tuple[ImageData, ImagePart]:
    """Take every `one_in`-th training image of each class away from a data set.

    With the default, halves that `search_split` makes of what stays are as large as what is held
    out. Read it by `loader(..., labels=False)`. The same seed gives the same images on every
    machine; test images are not touched.

    Args:
        data: a data set.
        one_in: one image of so many is held out, at least 2.
        seed: of the shuffle within the classes; none means 0.

    Returns:
        The data set without the images, in its old order, and the images.

    Raises:
        DataError: `one_in` is less than 2, or there are fewer training images than that.
    """
    count = len(data.train_labels)
    if count < one_in:
        raise DataError(
            f"hold_out(one_in={one_in}): that many are not among {count} training images; give "
            "one_in of at least 2 and at most the number of images."
        )
    held = by_class(data, seed)[one_in - 1 :: one_in]
    stays = torch.ones(count, dtype=torch.bool)
    stays[held] = False
    rest = dataclasses.replace(
        data, train_images=data.train_images[stays], train_labels=data.train_labels[stays]
    )
    return rest, data.train.take(held)


@checked(DataError)
def images_of(other: ImageData, like: ImageData) -> ImagePart:
    """The training images of another data set, to be normalized by this one's constants.

        x = (pixels / other.pixel_max - like.mean) / like.std

    A network that is trained on `like` reads them as it reads its own images. Their labels mean
    nothing to it: read them by `loader(..., labels=False)`.

    Args:
        other: the data set that gives the images.
        like: the data set that gives the constants.

    Returns:
        The images.

    Raises:
        DataError: the images of the two have different shapes.
    """
    shapes = [tuple(data.train_images.shape[1:]) for data in (other, like)]
    if shapes[0] != shapes[1]:
        raise DataError(
            f"images_of(other, like): images of {other.name} for {like.name}: their shape is "
            f"{shapes[0]}, not {shapes[1]}; give a data set with images of the same shape."
        )
    return dataclasses.replace(other, mean=like.mean, std=like.std).train

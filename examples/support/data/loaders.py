"""The batches of a search: the two parts, and unlabeled images if it needs them."""

from __future__ import annotations

import copy
from typing import Any

from torch.utils.data import DataLoader

import mlopt
from mlopt.data import (
    ImageData,
    ImagePart,
    hold_out,
    images_of,
    load,
    loader,
    search_split,
    standard_augmentation,
)
from mlopt.distributed import split

from ..settings import Settings

#: Whose images a data set takes as unlabeled ones; the others hold out some of their own.
OTHER = {"cifar10": "cifar100", "cifar100": "cifar10"}


def search_loaders(
    data: ImageData, s: Settings, *, plain: bool = False, unlabeled: bool = False
) -> tuple[Any, ...]:
    """Loaders of the two parts, and of unlabeled images; all keep pace with the training batches.

    Of each batch a rank has its slice.

    Args:
        data: whose training images are searched with.
        s: the settings.
        plain: whether training batches carry the images without augmentation too.
        unlabeled: whether the search needs unlabeled images.

    Returns:
        Training, validation, and with `unlabeled` a third loader, whose batches are images alone.
    """
    searched, images = unlabeled_images(data, s) if unlabeled else (data, None)
    train, valid = search_split(searched)
    smallest = min(len(part) for part in (valid, images) if part is not None)
    augment = standard_augmentation(data.name, data.image_size, search=True)
    options = {
        "batch_size": min(s.batch_size, smallest),
        "drop_last": True,
        "augment": None if data.name == "digits" else augment,
    }
    parts = batches(train, s, plain=plain, **options), batches(valid, s, **options)
    found = parts if images is None else (*parts, batches(images, s, labels=False, **options))
    return tuple(map(split, found))


def unlabeled_images(data: ImageData, s: Settings) -> tuple[ImageData, ImagePart]:
    """What stays to search with, and the unlabeled images: another data set's, or held out."""
    other = OTHER.get(data.name, "held-out") if s.unlabeled == "auto" else s.unlabeled
    if other == "held-out":
        return hold_out(data)
    if other == data.name:
        raise mlopt.SettingsError(
            f"--unlabeled {other}: these are the images that are searched with; give another data "
            "set, or held-out."
        )
    return data, images_of(load(other, s.unlabeled_root or s.data_root or None), like=data)


def batches(part: ImagePart, s: Settings, **options: Any) -> DataLoader[Any]:
    """A loader with the workers that the settings want; the options are those of `loader`."""
    return loader(part, workers=s.workers, pin_memory=s.device.startswith("cuda"), **options)


def fresh(loader: Any) -> mlopt.Stream:
    """The batches of a loader in passes of their own."""
    return mlopt.Stream(copy.copy(loader))

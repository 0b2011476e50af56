"""The batches of a search: the two parts, and unlabeled images if it needs them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

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
from support.settings import Settings

#: Whose images a data set takes as unlabeled ones; the others hold out some of their own.
OTHER = {"cifar10": "cifar100", "cifar100": "cifar10"}


def load_data(s: Settings) -> ImageData:
    """The data set, its training part cut to `train_images` if asked for."""
    size = {"image_size": s.image_size} if s.image_size else {}
    data = load(s.dataset, s.data_root or None, **size)
    if not s.train_images or s.train_images >= len(data.train):
        return data
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    chosen = order[: s.train_images]
    return dataclasses.replace(
        data, train_images=data.train_images[chosen], train_labels=data.train_labels[chosen]
    )


def search_loaders(
    data: ImageData, s: Settings, *, plain: bool = False, unlabeled: bool = False
) -> tuple[Any, ...]:
    """Loaders of the two parts, and of unlabeled images; all keep pace with the training batches.

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
        "workers": s.workers,
        "pin_memory": s.device.startswith("cuda"),
    }
    parts = loader(train, plain=plain, **options), loader(valid, **options)
    return parts if images is None else (*parts, loader(images, labels=False, **options))


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

"""The data set that the settings name."""

from __future__ import annotations

import dataclasses

import torch

from mlopt.data import ImageData, load

from ..settings import Settings


def load_data(s: Settings) -> ImageData:
    """The data set, its training part cut to `train_images` if asked for."""
    size = {"image_size": s.image_size} if s.image_size else {}
    return cut(load(s.dataset, s.data_root or None, **size), s.train_images)


def cut(data: ImageData, images: int) -> ImageData:
    """A data set with so many of its training images, always the same ones (0: all)."""
    if not images or images >= len(data.train):
        return data
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    part = data.train.take(order[:images])
    return dataclasses.replace(data, train_images=part.images, train_labels=part.labels)

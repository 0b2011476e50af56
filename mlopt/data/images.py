"""A labelled image data set, in memory or in files, and parts of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlopt._arguments import check_fields, checked, positive, within
from mlopt._errors import DataError
from mlopt.data.files import ImageFiles
from mlopt.data.normalization import Normalization

__all__ = ["ImageData", "ImagePart"]


@dataclass(frozen=True, eq=False)
class ImageData:
    """A labelled image data set with its fixed split into training and test images.

    The images are tensors in memory, or `ImageFiles`, which are read when a batch is made; parts,
    splits and loaders are the same for both.

    Args:
        name: what the data set is called in messages.
        train_images: pixels in 0..pixel_max, (N, C, S, S), uint8 or floating point; or
            `ImageFiles`.
        train_labels: class indices, (N,), int64.
        test_images: the same, (M, C, S, S).
        test_labels: class indices, (M,), int64.
        class_names: one name per class.
        mean: mean of each channel, in units of [0, 1].
        std: standard deviation of each channel, in units of [0, 1].
        pixel_max: the pixel value that means white.
        split_in_order: whether `search_split` cuts the training images in the middle, as DARTS does
            on CIFAR, when it is given no seed.
        search_shares: the shares of each class that `search_split` takes to train and to validate;
            None takes half and half.

    Raises:
        DataError: an empty set, images that are not square or not in the pixel range, images and
            labels of different number, or a label outside the classes.
    """

    name: str
    train_images: Any  # Tensor or ImageFiles: who uses it knows which one it is
    train_labels: Tensor
    test_images: Any
    test_labels: Tensor
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixel_max: float = 255.0
    split_in_order: bool = False
    search_shares: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_fields(
            self,
            DataError,
            mean=within("(-inf, inf)"),
            std=positive,
            pixel_max=positive,
            search_shares=within("(0, 1]"),
        )
        if len(self.mean) != len(self.std):
            raise DataError(
                f"{self.name}: mean={self.mean} and std={self.std} must have one number for each "
                "channel."
            )
        for part in ("train", "test"):
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
            names = f"{part}_images, {part}_labels"
            _check(f"{self.name} ({names}), {part} part", images, labels, self)
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise DataError(
                f"{self.name}: training images have shape {tuple(self.train_images.shape[1:])} "
                f"and test images {tuple(self.test_images.shape[1:])}; they must agree."
            )

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.train_images.shape[1]

    @property
    def image_size(self) -> int:
        """Side of an image, in pixels."""
        return self.train_images.shape[2]

    @property
    def normalization(self) -> Normalization:
        """Conversions between pixels, a generator's range and normalized images."""
        return Normalization(self.mean, self.std, self.pixel_max)

    @property
    def train(self) -> ImagePart:
        """All training images: what a found architecture is retrained on."""
        return ImagePart(self, self.train_images, self.train_labels)

    @property
    def test(self) -> ImagePart:
        """The test images, in the order of the files."""
        return ImagePart(self, self.test_images, self.test_labels)


@dataclass(frozen=True, eq=False)
class ImagePart:
    """Some of a data set's images with their labels.

    Args:
        data: the data set that they come from.
        images: pixels, (N, C, S, S), or `ImageFiles`.
        labels: class indices, (N,).

    Raises:
        DataError: as for `ImageData`.
    """

    data: ImageData
    images: Any
    labels: Tensor

    def __post_init__(self) -> None:
        check_fields(self, DataError)
        _check(f"ImagePart: {self.data.name}, a part", self.images, self.labels, self.data)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    @checked(DataError)
    def take(self, indices: Tensor) -> ImagePart:
        """Choose images.

        Args:
            indices: which ones, (K,), int64; or a mask, (N,).

        Returns:
            These images and labels: copies of pixels, names of files.

        Raises:
            DataError: no indices, or some that are out of range or not whole.
        """
        count = len(self)
        if indices.dtype == torch.bool and indices.shape == (count,):
            indices = indices.nonzero().flatten()
        whole = indices.dtype in (torch.int64, torch.int32)
        if indices.ndim != 1 or not whole or not len(indices):
            raise DataError(
                f"ImagePart.take: {self.data.name}, indices have shape {tuple(indices.shape)} "
                f"and type {indices.dtype}; give some, (K,), int64."
            )
        low, high = int(indices.min()), int(indices.max())
        if not (-count <= low and high < count):
            raise DataError(
                f"ImagePart.take: indices range over {low}..{high}, but there are {count} images."
            )
        return ImagePart(self.data, self.images[indices], self.labels[indices])


def _check(where: str, images: Any, labels: Tensor, data: ImageData) -> None:
    if not isinstance(images, (Tensor, ImageFiles)):
        raise DataError(
            f"{where}: images must be a tensor or ImageFiles, not {type(images).__name__}."
        )
    if images.ndim != 4 or images.shape[1] != len(data.mean) or images.shape[2] != images.shape[3]:
        raise DataError(
            f"{where}: images have shape {tuple(images.shape)}; give "
            f"(N, {len(data.mean)}, S, S), since mean names {len(data.mean)} channels."
        )
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise DataError(
            f"{where}: labels have shape {tuple(labels.shape)} and type {labels.dtype}; "
            "give (N,), int64."
        )
    if len(images) != len(labels):
        raise DataError(
            f"{where}: {len(images)} images but {len(labels)} labels; give one label per image."
        )
    if not len(images):
        raise DataError(f"{where}: no images; give at least one.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= data.classes:
        raise DataError(
            f"{where}: labels range over {low}..{high}, but there are {data.classes} classes: give "
            f"0..{data.classes - 1}, or more `class_names`."
        )
    if images.dtype == torch.uint8 and data.pixel_max >= 255:
        return
    if isinstance(images, ImageFiles):
        raise DataError(
            f"{where}: pixels of files reach 255, and pixel_max is {data.pixel_max:g}; give 255."
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise DataError(f"{where}: images have type {images.dtype}; give uint8 or floating point.")
    least, most = float(images.min()), float(images.max())
    if not (least >= 0 and most <= data.pixel_max):
        raise DataError(
            f"{where}: pixels range over {least:g}..{most:g}; give pixels in 0..{data.pixel_max:g}."
        )

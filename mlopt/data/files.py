"""Images that stay on disk until a batch is read: they stand where a tensor of pixels would."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mlopt._arguments import check_fields, checked, from_one
from mlopt._errors import DataError

__all__ = ["ImageFiles"]


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """N colour images in files, in the place of a tensor of pixels (N, 3, S, S).

    Like the tensor it has a length and a shape, and `files[indices]` chooses some of them. Nothing
    is read before `read`, which gives every image in its own size; grey and CMYK images come as
    RGB. `fit` makes them all S pixels wide and high.

    Args:
        folder: that all paths start from.
        names: the paths below it, (N,), an array of bytes: a list of a million strings would be
            copied into every worker, page by page.
        image_size: S.
        left_out: paths of files that were found to be unreadable and do not belong to the images.

    Raises:
        DataError: an argument is not what it must be.
    """

    folder: Path
    names: np.ndarray
    image_size: int
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, DataError, image_size=from_one)

    @property
    def shape(self) -> torch.Size:
        """(N, 3, S, S)."""
        return torch.Size((len(self), 3, self.image_size, self.image_size))

    @property
    def ndim(self) -> int:
        """4, the axes of `shape`."""
        return 4

    @property
    def dtype(self) -> torch.dtype:
        """Of the pixels, which are 0 to 255."""
        return torch.uint8

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    def __getitem__(self, chosen: Tensor | slice) -> ImageFiles:
        """Some of the images: by indices or a mask, (K,) or (N,), or by a slice."""
        names = self.names[chosen if isinstance(chosen, slice) else chosen.numpy()]
        return ImageFiles(self.folder, names, self.image_size)

    @checked(DataError)
    def path(self, index: int) -> Path:
        """Where an image lies.

        Args:
            index: which one; from the end, if it is negative.

        Returns:
            The path.

        Raises:
            DataError: there is no such image.
        """
        if not -len(self) <= index < len(self):
            raise DataError(f"ImageFiles.path(index={index}): there are {len(self)} images.")
        return self.folder / os.fsdecode(self.names[index])

    def read(self) -> list[Tensor]:
        """All images as pixels, each (3, H, W) in its own size, uint8.

        Returns:
            One tensor for each image.

        Raises:
            DataError: a file is no image, or is cut short; its name is in the message.
        """
        return [read_image(self.path(index)) for index in range(len(self))]

    @checked(DataError)
    def fit(self, images: list[Tensor]) -> Tensor:
        """Bring images of any size to S x S: the way in which test images are shown to networks.

        The shorter side becomes 256/224 of S, then the S x S pixels in the middle are cut out.

        Args:
            images: each (3, H, W).

        Returns:
            Pixels, (N, 3, S, S).

        Raises:
            DataError: there is no image, or one is no tensor (3, H, W).
        """
        if not images or any(image.ndim != 3 or not image.numel() for image in images):
            shapes = [tuple(image.shape) for image in images]
            raise DataError(f"ImageFiles.fit: images have shapes {shapes}; give some, (3, H, W).")
        from torchvision.transforms.v2 import functional

        shorter, size = [round(self.image_size * 256 / 224)], [self.image_size] * 2
        resized = [functional.resize(image, shorter, antialias=True) for image in images]
        return torch.stack([functional.center_crop(image, size) for image in resized])


def read_image(path: Path) -> Tensor:
    """The pixels of an image file as RGB, (3, H, W), uint8.

    Args:
        path: of the file.

    Returns:
        The pixels.

    Raises:
        DataError: the file is no image, or is cut short.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} cannot be read as an image: {error}. Replace the file, or leave such files "
            "out: load(..., skip_corrupt=True)."
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)

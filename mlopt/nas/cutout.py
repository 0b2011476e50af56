"""Cutout: an augmentation that erases a square."""

from __future__ import annotations

import torch
from torch import Tensor

from mlopt._errors import SettingsError

__all__ = ["Cutout"]


class Cutout:
    """Set a square of an image (C, H, W) to zero; use it last, after normalisation.

        rows [y - length // 2, y + length // 2), the same columns around x, clipped to the image

    The centre (y, x) is uniform over the pixels, drawn from torch's global generator.

    Args:
        length: side of the square; 16 is usual for images of 32 pixels.

    Raises:
        SettingsError: if `length` is less than two.

    Reference: DeVries, Taylor, "Improved Regularization of Convolutional Neural Networks with
        Cutout", 2017.
    """

    def __init__(self, length: int) -> None:
        if length < 2:
            raise SettingsError(
                f"Cutout: length must be at least 2, got {length}; to erase nothing, leave it out."
            )
        self.length = length

    def __call__(self, image: Tensor) -> Tensor:
        """Return a copy of the image with the square erased."""
        height, width = image.shape[-2:]
        half = self.length // 2
        y = int(torch.randint(height, ()))
        x = int(torch.randint(width, ()))
        image = image.clone()
        image[..., max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
        return image

    def __repr__(self) -> str:
        return f"Cutout(length={self.length})"

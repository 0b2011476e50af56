"""Cutout: an augmentation that erases a square."""

from __future__ import annotations

import torch
from torch import Tensor

from mlopt._arguments import checked, within
from mlopt._errors import SettingsError
from mlopt.data.augment import Drawn

__all__ = ["Cutout"]


class Cutout(Drawn):
    """Set a square of each image to zero; use it last, after normalisation.

        rows [y - length // 2, y + length // 2), the same columns around x, clipped to the image

    The centre (y, x) is uniform over the pixels, drawn for each image from torch's global
    generator.

    Args:
        length: side of the square; 16 is usual for images of 32 pixels.

    Raises:
        SettingsError: if `length` is less than two.

    Reference: DeVries, Taylor, "Improved Regularization of Convolutional Neural Networks with
        Cutout", 2017.
    """

    @checked(SettingsError, length=within("[2, inf)"))
    def __init__(self, length: int) -> None:
        self.length = length

    def _draw(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """The rows and the columns that are erased, (B, H) and (B, W)."""
        count, _, height, width = shape
        return self._inside(count, height), self._inside(count, width)

    def _apply(self, images: Tensor, *numbers: Tensor) -> Tensor:
        """Copies, each with a square erased."""
        rows, columns = numbers
        hole = rows[:, :, None] & columns[:, None, :]
        return images.masked_fill(hole.unsqueeze(1).to(images.device), 0)

    def _inside(self, count: int, side: int) -> Tensor:
        distance = torch.arange(side) - torch.randint(side, (count, 1))
        half = self.length // 2
        return (distance >= -half) & (distance < half)

    def __repr__(self) -> str:
        return f"Cutout(length={self.length})"

"""Exact conversion between pixels, a generator's range, and what a classifier reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlopt._arguments import check_fields, positive, within
from mlopt._errors import DataError, SettingsError

__all__ = ["Normalization"]


@dataclass(frozen=True)
class Normalization:
    """Mean and deviation of a data set's channels, and the conversions that they define.

        unit        u = pixels / pixel_max                in [0, 1]
        generator   g = 2 u - 1                           in [-1, 1]
        normalized  x = (u - mean) / std  =  ((g + 1) / 2 - mean) / std

    All conversions are affine, differentiable, and free of synchronisation on accelerators. Images
    are (..., C, H, W); results have the images' floating-point type (float32 for integer pixels).

    Args:
        mean: mean of each channel, in units of [0, 1].
        std: standard deviation of each channel, in units of [0, 1].
        pixel_max: the pixel value that means 1.

    Raises:
        SettingsError: mean and std differ in length or are empty, or a deviation or `pixel_max` is
            not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixel_max: float = 255.0

    def __post_init__(self) -> None:
        check_fields(
            self, SettingsError, mean=within("(-inf, inf)"), std=positive, pixel_max=positive
        )
        if len(self.mean) != len(self.std) or not self.mean:
            raise SettingsError(
                f"Normalization: mean={self.mean} and std={self.std} must have one number "
                "for each channel."
            )

    def from_pixels(self, pixels: Tensor) -> Tensor:
        """Pixels in 0..pixel_max to normalized images; shape (..., C, H, W) is kept."""
        self._check("pixels", pixels)
        x = pixels if pixels.is_floating_point() else pixels.float()
        scale = [1 / (self.pixel_max * s) for s in self.std]
        return self._affine(x, scale, self._zero())

    def from_generator(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] to normalized images: ((g + 1) / 2 - mean) / std; shape is kept."""
        self._check("images", images)
        scale = [0.5 / s for s in self.std]
        shift = [(0.5 - m) / s for m, s in zip(self.mean, self.std, strict=True)]
        return self._affine(images, scale, shift)

    def to_generator(self, x: Tensor) -> Tensor:
        """Normalized images to [-1, 1]: 2 (x std + mean) - 1; shape is kept."""
        self._check("x", x)
        return self._affine(x, [2 * s for s in self.std], [2 * m - 1 for m in self.mean])

    def _zero(self) -> list[float]:
        """What a black pixel becomes, for each channel."""
        return [-m / s for m, s in zip(self.mean, self.std, strict=True)]

    def _check(self, name: str, images: Any) -> None:
        channels = len(self.mean)
        if isinstance(images, Tensor) and images.ndim >= 3 and images.shape[-3] == channels:
            return
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise DataError(
            f"Normalization: {name} are {shape}; give a tensor (..., {channels}, H, W)."
        )

    def _affine(self, x: Tensor, scale: Sequence[float], shift: Sequence[float]) -> Tensor:
        if len(self.mean) == 1:
            return x * scale[0] + shift[0]
        return x * _column(scale, x) + _column(shift, x)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    # Filled on the device: a tensor made from a list would be copied there, and the copy waits.
    filled = [torch.full((1, 1), v, device=like.device, dtype=like.dtype) for v in values]
    return torch.stack(filled)

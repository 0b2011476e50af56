"""Random changes of training images, by data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mlopt._arguments import checked, from_one, from_zero, in_body
from mlopt._errors import DataError, SettingsError

__all__ = ["CropAndFlip", "WholeBatch", "augmentation", "standard_augmentation"]


class WholeBatch(ABC):
    """A change of images that `loader` calls once for a batch, and not once for each image.

    Derive from it only what draws for every image on its own: transforms of `torchvision` draw once
    in each call, so on a batch they would shift all its images alike. The numbers that it draws
    must not depend on the pixels: where ranks share a batch, each rank changes all of it, with its
    own images and black ones in the places of the others.
    """

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Change images (B, C, H, W), or one image (C, H, W)."""


def check_images(images: Any, where: str) -> None:
    """Refuse what is neither one image nor a batch of them.

    Args:
        images: what was given.
        where: to whom, for the error.

    Raises:
        DataError: it is no tensor (B, C, H, W) or (C, H, W).
    """
    if not isinstance(images, Tensor) or images.ndim not in (3, 4):
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise DataError(f"{where}: images are {shape}; give a tensor (B, C, H, W) or (C, H, W).")


class Drawn(WholeBatch):
    """A change that first draws its numbers, a row for each image, and then does without others."""

    @abstractmethod
    def _draw(self, shape: torch.Size) -> tuple[Tensor, ...]:
        """The numbers for a batch of this shape, each (B, ...)."""

    @abstractmethod
    def _apply(self, images: Tensor, *numbers: Tensor) -> Tensor:
        """Change images (B, C, H, W) by numbers (B, ...)."""

    def __call__(self, images: Tensor) -> Tensor:
        """Change images (B, C, H, W), or one image (C, H, W)."""
        check_images(images, type(self).__name__)
        if images.ndim == 3:
            return self(images.unsqueeze(0)).squeeze(0)
        return self._apply(images, *self._draw(images.shape))

    def _of_rows(self, images: Tensor, samples: int, rows: slice) -> Tensor:
        """Change some images of a batch by what is drawn for the whole batch.

        Args:
            images: those, (K, C, H, W).
            samples: in the batch.
            rows: where they are in it.

        Returns:
            These rows of the changed batch.
        """
        numbers = self._draw(torch.Size([samples, *images.shape[1:]]))
        return self._apply(images, *(n[rows] for n in numbers))


class CropAndFlip(Drawn):
    """Random crop of each image padded with black, then a horizontal flip of half of the images.

    Offsets are uniform, and so is the flip; all are independent, from torch's global generator.

    Args:
        image_size: side of the crop, in pixels.
        padding: pixels added on each side before the crop: the largest shift.
        flip: whether to flip.

    Raises:
        SettingsError: `image_size` is not positive or `padding` is negative.
    """

    @checked(SettingsError, image_size=from_one, padding=from_zero)
    def __init__(self, image_size: int, padding: int, flip: bool) -> None:
        self.image_size, self.padding, self.flip = image_size, padding, flip

    def _draw(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """The rows and the columns of each crop, from left to right or back."""
        count, _, height, width = shape
        rows = self._window(count, height + 2 * self.padding)
        columns = self._window(count, width + 2 * self.padding)
        if self.flip:
            flipped = torch.rand(count, 1) < 0.5
            columns = torch.where(flipped, columns.flip(1), columns)
        return rows, columns

    def _apply(self, images: Tensor, *numbers: Tensor) -> Tensor:
        """Crops of side `image_size`, in the images' own type."""
        rows, columns = numbers
        padded = torch.nn.functional.pad(images, [self.padding] * 4)
        # One gather from each image's pixels in a row: no loop over images, no index per channel.
        where = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
        where = where.flatten(1).unsqueeze(1).expand(-1, images.shape[1], -1)
        crops = padded.flatten(2).gather(2, where)
        return crops.unflatten(2, (self.image_size, self.image_size))

    def _window(self, count: int, length: int) -> Tensor:
        if length < self.image_size:
            raise SettingsError(
                f"CropAndFlip: {length} pixels with the padding hold no crop of {self.image_size}; "
                "give the data set's image_size."
            )
        first = torch.randint(length - self.image_size + 1, (count, 1))
        return first + torch.arange(self.image_size)

    def __repr__(self) -> str:
        return f"CropAndFlip({self.image_size}, padding={self.padding}, flip={self.flip})"


@checked(SettingsError, image_size=from_one, padding=from_zero)
def augmentation(image_size: int, padding: int, flip: bool) -> CropAndFlip:
    """Random crop of the image padded with black, then a horizontal flip of half of the images.

    Args:
        image_size: side of the images, in pixels.
        padding: pixels added on each side before the crop: the largest shift.
        flip: whether to flip.

    Returns:
        A function from pixels, (B, C, S, S) or (C, S, S), to others; it draws for each image from
        torch's global generator.

    Raises:
        SettingsError: `image_size` is not positive or `padding` is negative.
    """
    return CropAndFlip(image_size, padding, flip)


@checked(SettingsError, name=in_body, image_size=from_one)
def standard_augmentation(
    name: str, image_size: int, *, search: bool = False
) -> Callable[[Tensor], Tensor]:
    """The usual augmentation of a data set of `load`.

    CIFAR: shift by at most 4 pixels and flip, as DARTS; Fashion-MNIST: 2 pixels and flip; digits: 1
    pixel, no flip, since a mirrored digit is no digit. ImageNet: a crop of random place, size and
    aspect ratio, resized, and a flip; networks that are evaluated are also trained with changes of
    brightness, contrast, saturation (0.4 each) and hue (0.2), searches are not, as PC-DARTS.

    Args:
        name: a name that `load` takes.
        image_size: side of the images, in pixels.
        search: whether it is for a search; only ImageNet makes a difference.

    Returns:
        A function for `loader(augment=)`: of whole batches, and for ImageNet of one image of any
        size, (3, H, W).

    Raises:
        SettingsError: no augmentation is known for this name, or torchvision, which ImageNet needs,
            is missing.
    """
    if name == "imagenet":
        return _resized_crop(image_size, jitter=not search)
    if not isinstance(name, str) or name not in _STANDARD:
        names = ", ".join([*_STANDARD, "imagenet"])
        raise SettingsError(
            f"standard_augmentation(name={name!r}): none is known for it, only for {names}; "
            "make one with `augmentation(image_size, padding, flip)`."
        )
    padding, flip = _STANDARD[name]
    return augmentation(image_size, padding, flip)


_STANDARD = {
    "digits": (1, False),
    "fashion-mnist": (2, True),
    "cifar10": (4, True),
    "cifar100": (4, True),
}


def _resized_crop(image_size: int, jitter: bool) -> Callable[[Tensor], Tensor]:
    try:
        from torchvision.transforms import v2
    except ImportError as error:
        raise SettingsError(
            "standard_augmentation: torchvision is missing; install it with: "
            "pip install torchvision."
        ) from error
    changes = [v2.RandomResizedCrop(image_size, antialias=True), v2.RandomHorizontalFlip()]
    if jitter:
        changes.append(v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2))
    return v2.Compose(changes)

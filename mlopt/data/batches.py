"""Batches of normalized images from memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mlopt._errors import SettingsError
from mlopt.data.images import ImagePart

__all__ = ["ImageBatches", "loader"]


class ImageBatches(Dataset[Any]):
    """The images of a part as a data set that is read a whole batch at a time.

    Args:
        part: images with their labels.
        augment: a function of one image's pixels, (C, S, S), in the images' own type.
        finish: a function of one normalized image, (C, S, S), applied last; cutout belongs here, so
            that its hole is 0.
        plain: whether to give each image also without `augment` and `finish`.
        labels: whether to give the labels; else a batch is the images alone, a tensor.
    """

    def __init__(
        self,
        part: ImagePart,
        augment: Callable[[Tensor], Tensor] | None = None,
        finish: Callable[[Tensor], Tensor] | None = None,
        plain: bool = False,
        labels: bool = True,
    ) -> None:
        self.part = part
        self.normalization = part.data.normalization
        self.augment, self.finish, self.plain, self.labels = augment, finish, plain, labels

    def __len__(self) -> int:
        """Number of images."""
        return len(self.part)

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, ...]:
        """One image as in a batch of one, without the batch axis."""
        batch = self.__getitems__([index])
        return batch[0] if isinstance(batch, Tensor) else tuple(tensor[0] for tensor in batch)

    def __getitems__(self, indices: Sequence[int]) -> Tensor | tuple[Tensor, ...]:
        """A batch: x, `(x, y)` or `(x, y, plain)`; x and plain (B, C, S, S), y (B,)."""
        chosen = torch.as_tensor(indices)
        pixels, labels = self.part.images[chosen], self.part.labels[chosen]
        changed = pixels
        if self.augment is not None:
            changed = torch.stack([self.augment(image) for image in pixels])
        x = self.normalization.from_pixels(changed)
        if self.finish is not None:
            x = torch.stack([self.finish(image) for image in x])
        if not self.labels:
            return x
        if not self.plain:
            return x, labels
        if self.augment is None and self.finish is None:
            return x, labels, x
        return x, labels, self.normalization.from_pixels(pixels)


def loader(
    part: ImagePart,
    batch_size: int,
    *,
    augment: Callable[[Tensor], Tensor] | None = None,
    finish: Callable[[Tensor], Tensor] | None = None,
    plain: bool = False,
    labels: bool = True,
    shuffle: bool = True,
    drop_last: bool = False,
    seed: int | torch.Generator | None = None,
    workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Batches `(x, y)` of normalized images and labels, or `(x, y, plain)`, or x alone.

    `plain` is the same image without augmentation: what a discriminator compares generated images
    with while a classifier sees x. Use `loader(data.test, size, shuffle=False)` for the test images
    in order and `loader(data.train, ...)` to retrain on both halves of a search.

    Augmentation draws from torch's global generator, separately for each image; so does the shuffle
    unless `seed` is given. Under an mlopt `Engine` give no seed: the engine seeds every draw.

    Args:
        part: images with their labels, from `search_split`, `data.train` or `data.test`.
        batch_size: images in a batch, at least 1.
        augment: a function of one image's pixels, (C, S, S), such as `standard_augmentation(...)`.
        finish: a function of one normalized image, (C, S, S), applied last, such as cutout.
        plain: whether each batch has the un-augmented images too.
        labels: whether each batch has labels; without them it is x itself, not a tuple.
        shuffle: whether to draw in random order.
        drop_last: whether to leave out a last batch that is smaller than `batch_size`.
        seed: of the shuffle (a generator is used as it is and moves on with every pass).
        workers: processes that prepare batches; 0 prepares them in this process.
        pin_memory: whether batches are put in page-locked memory for faster transfer; ignored
            without an accelerator.

    Returns:
        A loader with x and plain of shape (B, C, S, S), float32 or the images' own floating-point
        type, and y of shape (B,), int64.

    Raises:
        SettingsError: `batch_size` or `workers` is out of range, `drop_last` leaves no batch, or
            `plain` images are asked for without labels.
    """
    if batch_size < 1 or workers < 0:
        raise SettingsError(
            f"loader: batch_size={batch_size} must be at least 1 and workers={workers} at least 0."
        )
    if plain and not labels:
        raise SettingsError("loader: plain=True comes with labels; leave out one of the two.")
    if drop_last and len(part) < batch_size:
        raise SettingsError(
            f"loader: batch_size={batch_size} with drop_last=True leaves no batch of the "
            f"{len(part)} images of {part.data.name}; take smaller batches or drop_last=False."
        )
    generator = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    return DataLoader(
        ImageBatches(part, augment, finish, plain, labels),
        batch_size,
        shuffle=shuffle,
        drop_last=drop_last,
        generator=generator,
        num_workers=workers,
        pin_memory=pin_memory and torch.cuda.is_available(),
        collate_fn=_as_it_is,
    )


def _as_it_is(batch: Any) -> Any:
    return batch

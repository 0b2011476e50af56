"""`loader`: batches of normalized images, the same ones with any number of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from mlopt._arguments import a_seed, checked, from_one, from_zero
from mlopt._errors import SettingsError
from mlopt.data.batches import Draw, ImageBatches
from mlopt.data.images import ImagePart

__all__ = ["loader"]


@checked(
    SettingsError,
    batch_size=from_one,
    seed=a_seed,
    workers=from_zero,
    prefetch=from_one,
)
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
    prefetch: int = 2,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Batches `(x, y)` of normalized images and labels, or `(x, y, plain)`, or x alone.

    `plain` is the same image without augmentation: what a discriminator compares generated images
    with while a classifier sees x. Use `loader(data.test, size, shuffle=False)` for the test images
    in order and `loader(data.train, ...)` to retrain on both halves of a search.

    A pass draws one seed, from torch's global generator unless `seed` is given. It decides the
    order and the seed of every batch, and augmentation draws from torch's global generator, set to
    the batch's seed and put back afterwards. So a pass is the same with and without workers, and
    the same again from the same seed. What draws from `random` or NumPy is not seeded. Under an
    mlopt `Engine` give no seed: the engine seeds every draw.

    Workers pay off where a batch takes long to prepare: images in files, or changes image by image.
    Images in memory with a `WholeBatch` augmentation are faster without. Workers stay for the next
    pass; a pass that begins while another one still runs has workers of its own.

    Args:
        part: images with their labels, from `search_split`, `data.train` or `data.test`.
        batch_size: images in a batch, at least 1.
        augment: a function of pixels, such as `standard_augmentation(...)`: of a batch (B, C, S, S)
            if it is a `WholeBatch`; else of one image, (C, S, S), or (3, H, W) of any size from a
            file, and its results must have one size.
        finish: the same of normalized images, applied last, such as cutout.
        plain: whether each batch has the un-augmented images too.
        labels: whether each batch has labels; without them it is x itself, not a tuple.
        shuffle: whether to draw in random order.
        drop_last: whether to leave out a last batch that is smaller than `batch_size`.
        seed: of the order and the augmentation (a generator is used as it is and moves on with
            every pass).
        workers: processes that prepare batches; 0 prepares them in this process.
        prefetch: batches that each worker prepares ahead.
        pin_memory: whether batches are put in page-locked memory for faster transfer; ignored
            without an accelerator.

    Returns:
        A loader with x and plain of shape (B, C, S, S), float32 or the images' own floating-point
        type, and y of shape (B,), int64.

    Raises:
        SettingsError: `batch_size`, `workers` or `prefetch` is out of range, `drop_last` leaves no
            batch, or `plain` images are asked for without labels.
    """
    if plain and not labels:
        raise SettingsError("loader: plain=True comes with labels; leave out one of the two.")
    if drop_last and len(part) < batch_size:
        raise SettingsError(
            f"loader: batch_size={batch_size} with drop_last=True leaves no batch of the "
            f"{len(part)} images of {part.data.name}; take smaller batches or drop_last=False."
        )
    generator = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    return _Loader(
        ImageBatches(part, augment, finish, plain, labels),
        _Passes(len(part), batch_size, shuffle, drop_last, generator),
        batch_size=None,  # the sampler gives whole batches
        # A DataLoader draws a number whenever it starts workers; from a generator of its own, or
        # the pass after it would depend on their number.
        generator=torch.Generator(),
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin_memory and torch.cuda.is_available(),
        collate_fn=_as_it_is,
    )


class _Passes(Sampler[Draw]):
    """The batches of a pass: which images, and a seed of each.

    Attributes:
        begin_after: holds how many batches the next pass leaves out, though their numbers are
            drawn, if it leaves out any. A list: a number that a pass changes would be one that
            passes of others depend on.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
        generator: torch.Generator | None,
    ) -> None:
        self.count, self.batch_size = count, batch_size
        self.shuffle, self.drop_last, self.generator = shuffle, drop_last, generator
        self.begin_after: list[int] = []

    def __len__(self) -> int:
        whole, rest = divmod(self.count, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Draw]:
        # All seeds come from the first one: workers are sent batches ahead, at other times than
        # they are read, and the global generator may stand elsewhere then.
        own = torch.Generator().manual_seed(_number(self.generator))
        order = torch.randperm(self.count, generator=own) if self.shuffle else None
        indices = list(range(self.count)) if order is None else order.tolist()
        first = self.begin_after.pop() if self.begin_after else 0
        for k in range(len(self)):
            draw = Draw(_number(own), indices[k * self.batch_size : (k + 1) * self.batch_size])
            if k >= first:
                yield draw


class _Loader(DataLoader[Any]):
    _running = False

    def __init__(self, batches: ImageBatches, passes: _Passes, **options: Any) -> None:
        super().__init__(batches, sampler=passes, **options)
        self._passes = passes  # whatever takes the sampler's place

    def begin_after(self, batches: int) -> None:
        """Have the next pass begin after so many batches, which are not read.

        Args:
            batches: how many; what they draw is drawn, so that the others are as ever.
        """
        self._passes.begin_after[:] = [batches]

    def __iter__(self) -> Any:
        return self._kept_workers() if self.persistent_workers else super().__iter__()

    def _kept_workers(self) -> Iterator[Any]:
        # A DataLoader with workers that stay has one iterator, and a second pass resets the first:
        # a callback that validates would end the pass of the search.
        if self._running:
            yield from self._get_iterator()
            return
        self._running = True
        try:
            yield from super().__iter__()
        finally:
            self._running = False


def _number(generator: torch.Generator | None) -> int:
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator))


def _as_it_is(batch: Any) -> Any:
    return batch

"""The images of a part as a data set that is read a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mlopt._arguments import checked
from mlopt._errors import DataError
from mlopt.data.augment import Drawn, WholeBatch
from mlopt.data.files import ImageFiles
from mlopt.data.images import ImagePart

__all__ = ["Draw", "ImageBatches"]


class Draw(NamedTuple):
    """Which images a batch has, and the seed of everything random in it.

    Args:
        seed: of the batch.
        indices: of the images.
        rows: of the batch that are read; by default all.
    """

    seed: int
    indices: list[int]
    rows: range | None = None

    @property
    def samples(self) -> int:
        """Images in the batch."""
        return len(self.indices)

    def only(self, rows: range) -> Draw:
        """The same batch, of which some rows are read: how ranks share it.

        Args:
            rows: which.

        Returns:
            What is read.
        """
        return self._replace(rows=rows)


class ImageBatches(Dataset[Any]):
    """The images of a part as a data set that is read a whole batch at a time.

    Args:
        part: images with their labels.
        augment: a function of pixels in their own type: of a batch (B, C, S, S) if it is a
            `WholeBatch`, else of one image, (C, S, S), or (3, H, W) of any size from a file.
        finish: the same of normalized images, applied last; cutout belongs here, so that its hole
            is 0.
        plain: whether to give each image also without `augment` and `finish`.
        labels: whether to give the labels; else a batch is the images alone, a tensor.

    Raises:
        DataError: an argument is not what it must be.
    """

    @checked(DataError)
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

    def __getitem__(self, index: int | Draw) -> Tensor | tuple[Tensor, ...]:
        """A batch with its own seed, or one image as in a batch of one, without the batch axis."""
        if isinstance(index, Draw):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(index.seed)  # the CPU's alone
                return self._read(index.indices, _Rows(index) if index.rows else None)
        batch = self.__getitems__([index])
        return batch[0] if isinstance(batch, Tensor) else tuple(tensor[0] for tensor in batch)

    def __getitems__(self, indices: Sequence[int]) -> Tensor | tuple[Tensor, ...]:
        """A batch: x, `(x, y)` or `(x, y, plain)`; x and plain (B, C, S, S), y (B,)."""
        return self._read(indices, None)

    def _read(self, indices: Sequence[int], rows: _Rows | None) -> Tensor | tuple[Tensor, ...]:
        chosen = torch.as_tensor(indices)[rows.own if rows else slice(None)]
        images, labels = self.part.images[chosen], self.part.labels[chosen]
        in_files = isinstance(self.part.images, ImageFiles)
        pixels = images.read() if in_files else images  # from files a list: they have own sizes

        def fitted() -> Tensor:
            return images.fit(pixels) if in_files else pixels

        if self.augment is None:
            x = self.normalization.from_pixels(fitted())
        else:
            whole = isinstance(self.augment, WholeBatch)
            x = _changed("augment", self.augment, fitted() if whole else pixels, rows)
            x = self.normalization.from_pixels(x)
        if self.finish is not None:
            x = _changed("finish", self.finish, x, rows)
        if not self.labels:
            return x
        if not self.plain:
            return x, labels
        if self.augment is None and self.finish is None:
            return x, labels, x
        return x, labels, self.normalization.from_pixels(fitted())


class _Rows:
    """Rows of a batch that are read without the others, and change as they do among them.

    Args:
        draw: the batch.

    Attributes:
        own: the rows.
        samples: in the batch.
    """

    def __init__(self, draw: Draw) -> None:
        assert draw.rows is not None
        self.own = slice(draw.rows.start, draw.rows.stop)
        self.samples = draw.samples
        # What draws image by image would have to see all images before these.
        self._seed: int | None = draw.seed + draw.rows.start if draw.rows.start else None

    def filled(self, images: Tensor) -> Tensor:
        """The whole batch, in which the other images are black: who changes it draws as ever."""
        whole = images.new_zeros(self.samples, *images.shape[1:])
        whole[self.own] = images
        return whole

    def one_by_one(self) -> None:
        """Single images are changed from now on: let others' numbers not be the same."""
        if self._seed is not None:
            torch.default_generator.manual_seed(self._seed)
            self._seed = None


def _changed(
    argument: str,
    change: Callable[[Tensor], Tensor],
    images: Tensor | list[Tensor],
    rows: _Rows | None,
) -> Tensor:
    """A batch of what a transform makes of images, if it is one."""
    name = f"{argument}={getattr(change, '__name__', type(change).__name__)}"
    if isinstance(change, WholeBatch) and isinstance(images, Tensor):
        if rows and type(change).__call__ is Drawn.__call__:
            return cast(Drawn, change)._of_rows(images, rows.samples, rows.own)
        given = rows.filled(images) if rows else images
        found = change(given)
        _check(name, found, (len(given),), "(B, C, H, W), as many images as there were")
        return found[rows.own] if rows else found
    if rows:
        rows.one_by_one()
    changed = [change(image) for image in images]
    for image in changed:
        _check(name, image, (), "(C, H, W)")
    sizes = list(dict.fromkeys(tuple(image.shape) for image in changed))
    if len(sizes) > 1:
        raise DataError(
            f"loader: {name} made images of {sizes[0]} and of {sizes[1]} in one batch, which has "
            "to have one size. End it with a crop or by resizing."
        )
    return torch.stack(changed)


def _check(name: str, found: Any, first: tuple[int, ...], form: str) -> None:
    """Refuse what has other first axes than these, or no three axes of an image after them."""
    axes = len(first)
    if isinstance(found, Tensor) and found.ndim == axes + 3 and found.shape[:axes] == first:
        return
    what = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    raise DataError(f"loader: {name} returned {what}; return a tensor {form}.")

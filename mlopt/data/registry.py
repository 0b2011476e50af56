"""`load`: a data set by name."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlopt._arguments import checked, in_body
from mlopt._errors import DataError, SettingsError
from mlopt.data.cifar import load_cifar10, load_cifar100
from mlopt.data.digits import load_digits
from mlopt.data.fashion import load_fashion_mnist
from mlopt.data.imagenet import load_imagenet
from mlopt.data.images import ImageData

__all__ = ["NAMES", "load"]

_LOADERS: dict[str, Callable[..., ImageData]] = {
    "digits": load_digits,
    "fashion-mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "imagenet": load_imagenet,
}
NAMES = tuple(_LOADERS)


@checked(DataError, name=in_body)
def load(name: str, root: str | os.PathLike[str] | None = None, **options: Any) -> ImageData:
    """A data set by name, from files that are already on this machine: nothing is downloaded.

    Args:
        name: `digits`, `fashion-mnist`, `cifar10`, `cifar100` or `imagenet`.
        root: the folder with the files; digits has none, and Fashion-MNIST without one is looked
            for where Debian's package `dataset-fashion-mnist` puts it.
        options: of `imagenet` alone: `image_size` (224), `classes` (how many there must be) and
            `skip_corrupt` (whether to leave out unreadable files, which costs a pass).

    Returns:
        The data set, in memory; ImageNet's images stay in their files until a batch is read.

    Raises:
        DataError: the name is unknown, or the files are missing or not what they should be.
        SettingsError: this data set has no such option.
    """
    if not isinstance(name, str) or name not in _LOADERS:
        raise DataError(
            f"load(name={name!r}): there is no such data set; give one of: {', '.join(NAMES)}."
        )
    known = inspect.signature(_LOADERS[name]).parameters.keys() - {"root"}
    if unknown := sorted(options.keys() - known):
        raise SettingsError(
            f"load: {name} has no option {', '.join(unknown)}; its options: "
            f"{', '.join(sorted(known)) or 'none'}."
        )
    return _LOADERS[name](None if root is None else Path(root), **options)

"""`load`: a data set by name."""

from __future__ import annotations

import os
from pathlib import Path

from mlopt._errors import DataError
from mlopt.data.cifar import load_cifar10, load_cifar100
from mlopt.data.digits import load_digits
from mlopt.data.fashion import load_fashion_mnist
from mlopt.data.images import ImageData

__all__ = ["NAMES", "load"]

_LOADERS = {
    "digits": load_digits,
    "fashion-mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
}
NAMES = tuple(_LOADERS)


def load(name: str, root: str | os.PathLike[str] | None = None) -> ImageData:
    """A data set by name, from files that are already on this machine: nothing is downloaded.

    Args:
        name: `digits`, `fashion-mnist`, `cifar10` or `cifar100`.
        root: the folder with the files; digits has none, and Fashion-MNIST without one is looked
            for where Debian's package `dataset-fashion-mnist` puts it.

    Returns:
        The data set, in memory.

    Raises:
        DataError: the name is unknown, or the files are missing or not what they should be.
    """
    if name not in _LOADERS:
        raise DataError(f"load: there is no data set {name!r}; give one of: {', '.join(NAMES)}.")
    return _LOADERS[name](None if root is None else Path(root))

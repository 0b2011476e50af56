"""CIFAR-10 and CIFAR-100, from files that torchvision reads."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlopt._errors import DataError, SettingsError
from mlopt.data.images import ImageData

__all__ = ["load_cifar10", "load_cifar100"]

# in units of [0, 1]; CIFAR-10's are DARTS', CIFAR-100's P-DARTS'
MEAN10, STD10 = (0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)
MEAN100, STD100 = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def load_cifar10(root: Path | None = None) -> ImageData:
    """60,000 colour images of 32x32 pixels with values 0..255, 10 classes. Nothing is downloaded.

    Args:
        root: the folder that holds `cifar-10-batches-py`, or that folder itself.

    Returns:
        50,000 training and 10,000 test images, uint8.

    Raises:
        DataError: a folder or file is missing, or is not the published one.
        SettingsError: torchvision is missing.

    Reference: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    return _load("cifar10", _torchvision().CIFAR10, root, MEAN10, STD10)


def load_cifar100(root: Path | None = None) -> ImageData:
    """60,000 colour images of 32x32 pixels with values 0..255, 100 classes. Nothing is downloaded.

    Args:
        root: the folder that holds `cifar-100-python`, or that folder itself.

    Returns:
        50,000 training and 10,000 test images, uint8.

    Raises:
        DataError: a folder or file is missing, or is not the published one.
        SettingsError: torchvision is missing.

    Reference: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    return _load("cifar100", _torchvision().CIFAR100, root, MEAN100, STD100)


def _torchvision() -> Any:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise SettingsError(
            "CIFAR: torchvision is missing; install it with: pip install torchvision."
        ) from error
    return datasets


def _load(
    name: str, kind: Any, root: Path | None, mean: tuple[float, ...], std: tuple[float, ...]
) -> ImageData:
    how = (
        f"Unpack {kind.url} in `root`, or call torchvision.datasets.{kind.__name__}(root, "
        "download=True) once."
    )
    if root is None:
        raise DataError(f"{name}: give root, the folder that holds {kind.base_folder}. {how}")
    folder = root.parent if root.name == kind.base_folder else root
    if not os.path.isdir(folder / kind.base_folder):  # which takes any name
        raise DataError(f"{name}: there is no folder {folder / kind.base_folder}. {how}")
    files = [file for file, _ in kind.train_list + kind.test_list] + [kind.meta["filename"]]
    missing = [file for file in files if not (folder / kind.base_folder / file).is_file()]
    if missing:
        raise DataError(f"{name}: {folder / kind.base_folder} lacks {', '.join(missing)}. {how}")
    try:
        # torchvision compares checksums with the published files before it unpickles anything.
        train, test = kind(folder, train=True), kind(folder, train=False)
    except RuntimeError as error:
        raise DataError(
            f"{name}: the files in {folder / kind.base_folder} are not the published ones: their "
            f"checksums differ. {how}"
        ) from error
    except (pickle.UnpicklingError, LookupError, EOFError, ValueError, TypeError) as error:
        raise DataError(
            f"{name}: the files in {folder / kind.base_folder} are not CIFAR's batches: "
            f"{error!r}. {how}"
        ) from error
    return ImageData(
        name=name,
        train_images=_images(train),
        train_labels=torch.tensor(train.targets, dtype=torch.int64),
        test_images=_images(test),
        test_labels=torch.tensor(test.targets, dtype=torch.int64),
        class_names=tuple(train.classes),
        mean=mean,
        std=std,
        split_in_order=True,
    )


def _images(dataset: Any) -> Tensor:
    return torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()

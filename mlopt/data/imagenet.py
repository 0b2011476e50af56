"""ImageNet, from folders of JPEG files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlopt._arguments import checked, from_one
from mlopt._errors import DataError, SettingsError
from mlopt.data.files import ImageFiles, read_image
from mlopt.data.images import ImageData

__all__ = ["load_imagenet"]

# in units of [0, 1]; the constants that all ImageNet models use
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Shares of each class's training images that search: for training and for validation.
SEARCH_SHARES = (0.1, 0.025)
_HOW = (
    "ImageNet is one folder a class, the same ones under root/train and root/val, with the images "
    "of the class in it: root/train/n01440764/n01440764_10026.JPEG and so on."
)


@checked(SettingsError, image_size=from_one, classes=from_one)
def load_imagenet(
    root: Path | None = None,
    image_size: int = 224,
    classes: int | None = None,
    skip_corrupt: bool = False,
) -> ImageData:
    """Colour images of any size in class folders, read from disk batch by batch.

    ImageNet 2012 has 1000 classes, 1.28 million training images and 50,000 validation images; any
    folders of the same form will do. The validation images are the test images: they are resized
    and cut to `image_size` from the middle, and the training images are too unless a loader is
    given an augmentation. Grey and CMYK images are converted to RGB. Classes are numbered in the
    alphabetical order of their folders.

    A search uses 10 % of each class to train and 2.5 % to validate, as PC-DARTS: see
    `search_split`.

    A file that cannot be read stops the pass that meets it, with an error that names the file.
    With `skip_corrupt=True` all files are read once here, which takes as long as a pass; the
    unreadable ones are left out, and a warning says how many and names the first. Their paths are
    in `data.train_images.left_out` and `data.test_images.left_out`.

    Args:
        root: the folder that holds `train` and `val`.
        image_size: side of the images that networks read, in pixels.
        classes: how many classes there must be, to be sure; by default as many as folders.
        skip_corrupt: whether to leave out files that cannot be read.

    Returns:
        The data set; its images are `ImageFiles`.

    Raises:
        DataError: a folder is missing, a class is in one of the two parts only or has no images,
            or the number of classes is not `classes`.
        SettingsError: `image_size` is not positive, or torchvision is missing.

    Reference: Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", 2015; Xu et
        al., "PC-DARTS", 2020, section 4.3.
    """
    if root is None:
        raise DataError(f"imagenet: give root, the folder that holds train and val. {_HOW}")
    names = _class_names(root, classes)
    train, train_labels = _part(root / "train", image_size, skip_corrupt)
    test, test_labels = _part(root / "val", image_size, skip_corrupt)
    return ImageData(
        name="imagenet",
        train_images=train,
        train_labels=train_labels,
        test_images=test,
        test_labels=test_labels,
        class_names=names,
        mean=MEAN,
        std=STD,
        search_shares=SEARCH_SHARES,
    )


def _class_names(root: Path, classes: int | None) -> tuple[str, ...]:
    folders = {}
    for part in ("train", "val"):
        if not os.path.isdir(root / part):  # which takes any name
            raise DataError(f"imagenet: there is no folder {root / part}. {_HOW}")
        folders[part] = {entry.name for entry in os.scandir(root / part) if entry.is_dir()}
    for part, other in (("train", "val"), ("val", "train")):
        if missing := sorted(folders[other] - folders[part]):
            raise DataError(
                f"imagenet: {root / part} lacks {len(missing)} of the class folders of "
                f"{root / other}: {_some(missing)}. {_HOW}"
            )
    names = tuple(sorted(folders["train"]))
    if not names:
        raise DataError(f"imagenet: {root / 'train'} has no class folders. {_HOW}")
    if classes is not None and len(names) != classes:
        raise DataError(
            f"imagenet: {root / 'train'} has {len(names)} class folders, and classes={classes} "
            "was asked for; give the right folder or number."
        )
    return names


def _part(folder: Path, image_size: int, skip_corrupt: bool) -> tuple[ImageFiles, Tensor]:
    found = _torchvision().ImageFolder(folder, allow_empty=True)
    paths = [path.removeprefix(f"{folder}{os.sep}") for path, _ in found.samples]
    labels = torch.tensor([label for _, label in found.samples], dtype=torch.int64)
    left_out: tuple[str, ...] = ()
    if skip_corrupt:
        good = _readable(folder, paths)
        left_out = tuple(path for path, is_good in zip(paths, good, strict=True) if not is_good)
        paths = [path for path, is_good in zip(paths, good, strict=True) if is_good]
        labels = labels[torch.tensor(good, dtype=torch.bool)]
    counts = labels.bincount(minlength=len(found.classes)).tolist()
    if empty := [c for c, count in zip(found.classes, counts, strict=True) if not count]:
        raise DataError(f"imagenet: {folder} has no readable images of {_some(empty)}. {_HOW}")
    if left_out:
        warnings.warn(
            f"imagenet: {len(left_out)} of the {len(found.samples)} files in {folder} cannot be "
            f"read as images and are left out: {_some(left_out)}.",
            stacklevel=6,  # the caller of load, past two checks of arguments
        )
    names = np.array([os.fsencode(path) for path in paths])
    return ImageFiles(folder, names, image_size, left_out), labels


def _readable(folder: Path, paths: Sequence[str]) -> list[bool]:
    def good(path: str) -> bool:
        try:
            read_image(folder / path)
        except DataError:
            return False
        return True

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding does not hold Python's lock
        return list(pool.map(good, paths))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _torchvision() -> Any:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise SettingsError(
            "imagenet: torchvision is missing; install it with: pip install torchvision."
        ) from error
    return datasets

"""Fashion-MNIST, from files in the idx format."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import torch
from torch import Tensor

from mlopt._errors import DataError
from mlopt.data.images import ImageData

__all__ = ["load_fashion_mnist"]

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
# of the training images, in units of [0, 1]
MEAN = (0.286041,)
STD = (0.353024,)
_HOW = (
    "Fashion-MNIST is four idx files, plain or .gz (train-images-idx3-ubyte and so on): put them "
    "in `root`, or let torchvision.datasets.FashionMNIST(root, download=True) do so, or install "
    "Debian's package dataset-fashion-mnist and give no root."
)


def load_fashion_mnist(root: Path | None = None) -> ImageData:
    """70,000 grey images of clothes, 28x28 pixels with values 0..255, 10 classes.

    Args:
        root: a folder with the four files, or torchvision's root with `FashionMNIST/raw` in it; by
            default the folder of Debian's package `dataset-fashion-mnist`.

    Returns:
        60,000 training and 10,000 test images, uint8.

    Raises:
        DataError: a folder or file is missing, or is not what its name says.

    Reference: Xiao, Rasul, Vollgraf, "Fashion-MNIST", 2017.
    """
    folder = DEBIAN if root is None else root
    if not os.path.isdir(folder):  # which takes any name
        raise DataError(f"fashion-mnist: there is no folder {folder}. {_HOW}")
    if (folder / "FashionMNIST" / "raw").is_dir():
        folder = folder / "FashionMNIST" / "raw"
    return ImageData(
        name="fashion-mnist",
        train_images=_images(folder, "train-images-idx3-ubyte"),
        train_labels=_read(folder, "train-labels-idx1-ubyte", 1).to(torch.int64),
        test_images=_images(folder, "t10k-images-idx3-ubyte"),
        test_labels=_read(folder, "t10k-labels-idx1-ubyte", 1).to(torch.int64),
        class_names=CLASSES,
        mean=MEAN,
        std=STD,
    )


def _images(folder: Path, name: str) -> Tensor:
    images = _read(folder, name, 3)
    if images.shape[1:] != (28, 28):
        raise DataError(
            f"fashion-mnist: {folder / name} holds images of {tuple(images.shape[1:])} pixels, not "
            f"(28, 28). {_HOW}"
        )
    return images.unsqueeze(1)


def _read(folder: Path, name: str, axes: int) -> Tensor:
    # An idx file of bytes: 0, 0, type 8, number of axes; the axes' lengths, 4 bytes each; the data.
    # torchvision reads this format too, but not compressed, and its asserts do not name the file.
    plain, packed = folder / name, folder / f"{name}.gz"
    try:
        if plain.is_file():
            content = plain.read_bytes()
        elif packed.is_file():
            content = gzip.decompress(packed.read_bytes())
        else:
            raise DataError(f"fashion-mnist: neither {plain} nor {packed.name} is there. {_HOW}")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"fashion-mnist: {plain} or its .gz cannot be read: {error}. {_HOW}"
        ) from error
    start = 4 + 4 * axes
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) < start:
        raise DataError(
            f"fashion-mnist: {plain} is not an idx file of bytes with {axes} axes: it starts with "
            f"{content[:4].hex() or 'nothing'}, not {bytes([0, 0, 8, axes]).hex()}. {_HOW}"
        )
    shape = [int.from_bytes(content[4 + 4 * k : 8 + 4 * k], "big") for k in range(axes)]
    size = math.prod(shape)
    if len(content) != start + size:
        raise DataError(
            f"fashion-mnist: {plain} announces {size} bytes ({' x '.join(map(str, shape))}) and "
            f"holds {len(content) - start}; it is cut short or not this data. {_HOW}"
        )
    if not size:
        raise DataError(f"fashion-mnist: {plain} is empty. {_HOW}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(*shape)

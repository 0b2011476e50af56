"""Small image files in the published formats: CIFAR, Fashion-MNIST (idx), ImageNet (folders)."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets


class CifarFiles:
    """Writes small CIFAR folders; torchvision's checksums are replaced by mere existence."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        for kind in (datasets.CIFAR10, datasets.CIFAR100):
            for name in ("train_list", "test_list"):
                files = [[file, None] for file, _ in getattr(kind, name)]
                monkeypatch.setattr(kind, name, files)
            monkeypatch.setattr(kind, "meta", kind.meta | {"md5": None})

    def write(self, path: str, content: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pickle.dumps(content, protocol=2))

    def cifar10(self, per_file: int = 4) -> np.ndarray:
        """Returns the pixels of all files in order, (6 * per_file, 3072)."""
        pixels = np.random.default_rng(0).integers(0, 256, (6 * per_file, 3072), dtype=np.uint8)
        names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
        for k, name in enumerate(names):
            rows = slice(k * per_file, (k + 1) * per_file)
            content = {"data": pixels[rows], "labels": [(k + i) % 10 for i in range(per_file)]}
            self.write(f"cifar-10-batches-py/{name}", content)
        meta = {"label_names": [f"thing {c}" for c in range(10)]}
        self.write("cifar-10-batches-py/batches.meta", meta)
        return pixels

    def cifar100(self, count: int = 6) -> None:
        for name in ("train", "test"):
            content = {
                "data": np.full((count, 3072), 7, dtype=np.uint8),
                "fine_labels": list(range(94, 94 + count)),
                "coarse_labels": [0] * count,
            }
            self.write(f"cifar-100-python/{name}", content)
        meta = {"fine_label_names": [f"thing {c}" for c in range(100)], "coarse_label_names": []}
        self.write("cifar-100-python/meta", meta)


def idx(values: torch.Tensor) -> bytes:
    """Numbers of 0 to 255 as an idx file of bytes."""
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.to(torch.uint8).numpy().tobytes()


def write_fashion(root: Path, train: int, test: int) -> None:
    """Random images, every class equally often."""
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", train), ("t10k", test)):
        pixels = torch.randint(0, 256, (count, 28, 28), generator=generator)
        (root / f"{part}-images-idx3-ubyte").write_bytes(idx(pixels))
        (root / f"{part}-labels-idx1-ubyte").write_bytes(idx(torch.arange(count) % 10))


def write_imagenet(root: Path, classes: int = 3, images: int = 4, val: int = 2) -> Path:
    """ImageNet's folders with small JPEGs: root/train/<class>/*.JPEG, root/val/<class>/*.JPEG.

    Every image has its own size, none is square. Of each class the second image is grey, the third
    CMYK. A class has its own colour, with noise.

    Args:
        root: made if it is not there.
        classes: how many folders.
        images: of each class in train.
        val: of each class in val.

    Returns:
        The root.
    """
    random = np.random.default_rng(0)
    for part, count in (("train", images), ("val", val)):
        for c in range(classes):
            name = f"n{c + 1:08d}"
            folder = root / part / name
            folder.mkdir(parents=True)
            colour = np.array([40 + 170 * c // classes, 200 - 150 * c // classes, 90])
            for k in range(count):
                shape = (35 + 3 * k + c, 52 - 2 * k + 5 * c, 3)
                pixels = np.clip(colour + random.integers(-40, 41, shape), 0, 255)
                image = Image.fromarray(pixels.astype(np.uint8))
                image = image.convert({1: "L", 2: "CMYK"}.get(k, "RGB"))
                image.save(folder / f"{name}_{k}.JPEG", quality=90)
    return root

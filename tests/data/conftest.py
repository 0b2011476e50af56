"""A small data set and CIFAR files in the published format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from image_files import CifarFiles

from mlopt.data import ImageData


@pytest.fixture
def colours() -> ImageData:
    """31 training and 7 test images of 3 classes; the first pixel of each image is its index."""
    generator = torch.Generator().manual_seed(3)
    train = torch.randint(0, 256, (31, 3, 6, 6), generator=generator, dtype=torch.uint8)
    test = torch.randint(0, 256, (7, 3, 6, 6), generator=generator, dtype=torch.uint8)
    train[:, 0, 0, 0] = torch.arange(31)
    return ImageData(
        name="colours",
        train_images=train,
        train_labels=torch.arange(31) % 3,
        test_images=test,
        test_labels=torch.arange(7) % 3,
        class_names=("red", "green", "blue"),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.5),
    )


@pytest.fixture
def cifar_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CifarFiles:
    return CifarFiles(tmp_path, monkeypatch)

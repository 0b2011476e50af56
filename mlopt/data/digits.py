"""Handwritten digits of 8x8 pixels, from scikit-learn: small enough for tests and first runs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mlopt._errors import SettingsError
from mlopt.data.images import ImageData

__all__ = ["load_digits"]

# of the training images, in units of [0, 1]
MEAN = (0.304880,)
STD = (0.375807,)


def load_digits(root: Path | None = None) -> ImageData:
    """1797 grey digits of 8x8 pixels with values 0..16, 10 classes; comes with scikit-learn.

    The test part is fixed and has no seed: every fourth image of each class, in scikit-learn's
    order.

    Args:
        root: not used; there are no files.

    Returns:
        1352 training and 445 test images, uint8.

    Raises:
        SettingsError: scikit-learn is missing.

    Reference: Alpaydin, Kaynak, "Optical recognition of handwritten digits", UCI repository, 1998.
    """
    del root
    try:
        import sklearn  # noqa: F401  asked for here, used below
    except ImportError as error:
        raise SettingsError(
            "digits: scikit-learn is missing; install it with: pip install scikit-learn."
        ) from error
    images, labels = _read()
    test = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(10):
        test[(labels == digit).nonzero().squeeze(1)[3::4]] = True
    return ImageData(
        name="digits",
        train_images=images[~test],
        train_labels=labels[~test],
        test_images=images[test],
        test_labels=labels[test],
        class_names=tuple(str(digit) for digit in range(10)),
        mean=MEAN,
        std=STD,
        pixel_max=16.0,
    )


@cache  # scikit-learn parses a text file each time
def _read() -> tuple[Tensor, Tensor]:
    """All images and labels. Whoever asks gets copies of their rows."""
    from sklearn import datasets

    pixels, digits = datasets.load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, 8, 8)
    return images, torch.from_numpy(digits).to(torch.int64)

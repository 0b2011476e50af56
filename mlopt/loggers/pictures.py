"""Arrays of numbers as pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mlopt._errors import DataError

__all__ = ["as_picture"]


def as_picture(values: Any) -> np.ndarray:
    """Numbers as a picture: the least is black and the greatest white.

    Bytes are taken as they are. What is not finite is black.

    Args:
        values: a tensor or array (height, width), or (channels, height, width) with one channel or
            three.

    Returns:
        Bytes: (height, width), or (height, width, 3).

    Raises:
        DataError: it has another shape, is empty or complex.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().to_dense().cpu()
        values = values.float() if values.dtype is torch.bfloat16 else values
    try:
        found = np.asarray(values)
    except ValueError as error:
        raise DataError(f"log_image: image= is none ({error}). Give rows of one length") from None
    shape = found.shape
    if found.ndim == 2:
        found = found[None]
    drawable = (
        found.ndim == 3 and found.shape[0] in (1, 3) and found.size and found.dtype.kind in "biuf"
    )
    if not drawable:
        raise DataError(
            f"log_image: image= of shape {shape} is no picture. Give numbers (height, "
            "width), or (channels, height, width) with one channel or three"
        )
    if found.dtype != np.uint8:
        found = found.astype(np.float64)
        finite = np.isfinite(found)
        least = found.min(where=finite, initial=np.inf)
        span = found.max(where=finite, initial=-np.inf) - least
        share = np.where(finite, found - least, 0) / span if span > 0 else np.zeros_like(found)
        found = np.round(255 * share).astype(np.uint8)
    return found[0] if len(found) == 1 else found.transpose(1, 2, 0)

"""Metrics as numbers: nested ones by joined names, and what is none."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._errors import CapabilityWarning

__all__ = ["LONGEST", "flat", "is_picture", "left_out_of", "means", "readable", "scalar"]

#: Lists of numbers that are longer are not logged.
LONGEST = 1024

_LEFT_OUT = object()


def flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a metric by name: "name/key" for those of a dict, at any depth.

    Args:
        name: of the metric.
        value: whatever it is.

    Yields:
        Pairs of a name and a value that is no dict.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flat(f"{name}/{key}", inner)
    else:
        yield name, value


def readable(metrics: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics as what a log can hold: numbers, words, and lists of `LONGEST` numbers at most.

    Args:
        metrics: by name; to read a tensor waits for its device.

    Returns:
        What can be read, by name, and what was left out, as it is.
    """
    found: dict[str, Any] = {}
    left_out: dict[str, Any] = {}
    for name, value in (part for item in metrics.items() for part in flat(*item)):
        read = _read(value)
        if read is _LEFT_OUT:
            left_out[name] = value
        else:
            found[name] = read
    return found, left_out


def is_picture(value: Any) -> bool:
    """Whether something can be drawn: numbers (height, width), in one channel or three before them.

    Args:
        value: a part of a metric.

    Returns:
        Whether it is so, and no side is longer than `LONGEST`.
    """
    if isinstance(value, Tensor):
        if not _has_numbers(value) or value.is_complex():
            return False
    elif not (isinstance(value, np.ndarray) and value.dtype.kind in "biuf"):
        return False
    *channels, height, width = value.shape if value.ndim in (2, 3) else (0, 0, 0)
    return channels in ([], [1], [3]) and 0 < height <= LONGEST and 0 < width <= LONGEST


def left_out_of(where: str, values: Mapping[str, Any], told: set[str]) -> None:
    """Say what is left out, each name once.

    Args:
        where: out of what.
        values: that `readable` has left out.
        told: names of which it has been said; gets those of now.
    """
    new = {name: _kind(value) for name, value in values.items() if name not in told}
    if new:
        told.update(new)
        named = ", ".join(f"{name} (a {kind})" for name, kind in new.items())
        warnings.warn(
            f"run: {named} left out of {where}, which take numbers, words, lists of at most "
            f"{LONGEST} numbers, dicts of these, and, with a logger that shows them, pictures: "
            f"numbers (height, width) of at most {LONGEST} a side. Callback.on_step has all "
            "metrics as they are.",
            CapabilityWarning,
            stacklevel=3,
        )


def means(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Tensor | float]]:
    """What of metrics a mean can be taken of.

    Args:
        metrics: by name.

    Yields:
        Names and values, as of `scalar`.
    """
    for name, metric in metrics.items():
        for part, value in flat(name, metric):
            if (number := scalar(value)) is not None:
                yield part, number


def scalar(value: Any) -> Tensor | float | None:
    """What a mean can be taken of, detached; None if it cannot.

    Args:
        value: a part of a metric.

    Returns:
        A float, or a tensor of float32 or float64 without dimensions.
    """
    if isinstance(value, Tensor):
        if value.dim() or value.is_complex() or not _has_numbers(value):
            return None
        value = value.detach().to_dense()
        return value if value.dtype in (torch.float32, torch.float64) else value.float()
    if not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number may have any length
        return None


def _has_numbers(tensor: Tensor) -> bool:
    """Whether it can be read as it is: what is sparse can, filled up."""
    return not (tensor.is_meta or tensor.is_nested or tensor.is_quantized)


def _kind(value: Any) -> str:
    """What a metric is that was left out."""
    name = type(value).__name__
    if isinstance(value, numbers.Real):
        return f"{name} beyond the range of floats"
    if isinstance(value, Tensor) and not _has_numbers(value):
        how = "meta" if value.is_meta else "nested" if value.is_nested else "quantized"
        return f"{how} {name}"
    return f"{name} of shape {tuple(value.shape)}" if hasattr(value, "shape") else name


def _read(value: Any) -> Any:
    if isinstance(value, Tensor | np.ndarray | np.generic):
        tensor = value if isinstance(value, Tensor) else None
        if tensor is not None and (tensor.is_nested or tensor.is_quantized):
            return _LEFT_OUT
        if value.ndim > 1 or (value.ndim == 1 and value.shape[0] > LONGEST):
            return _LEFT_OUT
        try:
            plain = value.tolist() if tensor is None else tensor.detach().to_dense().tolist()
        except NotImplementedError:  # on "meta" there is nothing to read
            return _LEFT_OUT
        # Of an array of objects each has to be looked at; long doubles have no plain form.
        return plain if isinstance(plain, np.generic) else _read(plain)
    if isinstance(value, list | tuple):
        read = [_read(v) for v in value] if len(value) <= LONGEST else [_LEFT_OUT]
        return read if all(isinstance(v, str | numbers.Number) for v in read) else _LEFT_OUT
    if isinstance(value, numbers.Real) and scalar(value) is None:
        return _LEFT_OUT
    return value if value is None or isinstance(value, str | numbers.Number) else _LEFT_OUT

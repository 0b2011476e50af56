"""Metrics as what JSON can hold, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlopt._errors import DataError, SettingsError

__all__ = ["counts_in", "from_json", "to_json"]

MAX_ELEMENTS = 4096  # of one tensor: a metric is a number or a few, not a weight matrix
_MOST_BITS = 10_000  # of a whole number; Python reads no text of more than 4300 digits
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_json(value: object) -> Any:
    """Turn a metric, or a whole row, into what JSON can hold.

    Tensors and arrays become numbers or lists; numbers that are not finite become the strings
    "NaN", "Infinity" and "-Infinity", because JSON has no number for them; paths become strings.

    Args:
        value: a scalar, string, None, path, tensor, array, or a mapping, list, tuple or set of
            these.

    Returns:
        The same, made of dict, list, str, int, float, bool and None.

    Raises:
        DataError: a value is of another type or nested too deeply, a tensor has more than 4096
            elements or is a meta, nested or quantized one, or two keys of a mapping are the same as
            text.
    """
    try:
        return _plain(value)
    except RecursionError:
        raise DataError("a value is nested too deeply, or contains itself") from None


def counts_in(state: object, where: str, *names: str) -> list[int]:
    """The whole numbers of a logger's state.

    Args:
        state: as it was saved.
        where: whose it is, for the error.
        names: of the numbers, which are all that is in it.

    Returns:
        They.

    Raises:
        SettingsError: it is no such state.
    """
    if not isinstance(state, Mapping) or {*state} != {*names}:
        raise SettingsError(f"{where}: is given no state of its own, but {state!r:.80}.")
    if wrong := [name for name in names if type(state[name]) is not int]:
        raise SettingsError(f"{where}: the state's {wrong[0]!r} is no whole number.")
    return [state[name] for name in names]


def _plain(value: object) -> Any:
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        if value.bit_length() > _MOST_BITS:
            raise DataError("a whole number of thousands of digits cannot be read back")
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _name_of(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        plain = {str(key): _plain_at(key, item) for key, item in value.items()}
        if len(plain) < len(value):
            raise DataError(f"two of the names {[str(key) for key in value]} are the same as text")
        return plain
    if isinstance(value, (set, frozenset)):
        return [_plain(item) for item in sorted(value, key=str)]
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        if value.is_meta or value.is_nested or value.is_quantized:
            how = "meta" if value.is_meta else "nested" if value.is_nested else "quantized"
            raise DataError(f"a {how} tensor cannot be written as JSON. Give numbers made of it")
        _check_size(value.numel(), tuple(value.shape))
        return _plain(value.detach().to_dense().cpu().tolist())
    if isinstance(value, (np.ndarray, np.generic)):
        _check_size(value.size, value.shape)
        return _plain(value.tolist())
    raise DataError(
        f"a value of type {type(value).__name__} cannot be written as JSON. Give a number, string, "
        f"small tensor, or a list or mapping of these"
    )


def from_json(value: Any) -> Any:
    """Turn the strings "NaN", "Infinity" and "-Infinity" back into the floats that `to_json` had.

    Args:
        value: what was read from JSON.

    Returns:
        The same, with those strings replaced at any depth.
    """
    if isinstance(value, str):
        return _SPECIAL.get(value, value)
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if isinstance(value, dict):
        return {key: from_json(item) for key, item in value.items()}
    return value


def _name_of(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _plain_at(key: object, value: object) -> Any:
    try:
        return _plain(value)
    except DataError as error:
        raise DataError(f"{key}: {error}") from None


def _check_size(elements: int, shape: tuple[int, ...]) -> None:
    if elements > MAX_ELEMENTS:
        raise DataError(
            f"a tensor of shape {shape} is too large for a row of metrics (more than "
            f"{MAX_ELEMENTS} elements). Log its norm or mean, or save it to its own file"
        )

"""What values a setting may have, wherever they come from."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from mlopt import SettingsError

from .options import Settings

_LEAST = {"learners": 1, "gan_beta1": -1, "most_skips": -1}
_TOO_LARGE = {int: 2**63, float: math.inf}  # as torch has it of seeds
_POSITIVE = (
    "channels", "cells", "nodes", "epochs", "batch_size", "lr", "arch_lr", "radius",
    "clip", "gan_lr", "eval_channels", "eval_cells", "eval_epochs",
    "eval_batch_size", "eval_lr", "eval_seeds",
)  # fmt: skip
_BELOW_ONE = ("gan_beta1", "ema", "eval_label_smoothing", "drop_path", "momentum")


def checked(values: dict[str, Any], where: str) -> dict[str, Any]:
    """The values as the settings need them, each by name.

    Args:
        values: by the names of `Settings`.
        where: they come from, for errors.

    Raises:
        SettingsError: there is no such setting, or it cannot have that value.
    """
    fields = {f.name: f for f in dataclasses.fields(Settings)}
    unknown = [name for name in values if name not in fields]
    if unknown:
        raise SettingsError(
            f"{where}: there is no setting {unknown[0]!r}; known are {', '.join(fields)}."
        )
    return {name: _value(fields[name], value, where) for name, value in values.items()}


def _value(f: dataclasses.Field[Any], value: Any, where: str) -> Any:
    given = f"{where}: {f.name} = {value!r}"
    if isinstance(f.default, tuple):
        kind = type(f.default[0])
        if not isinstance(value, list | tuple) or not value:
            raise SettingsError(f"{given} must be a list of {kind.__name__}.")
        return tuple(_number(f.name, kind, v, f"{given}: {v!r}") for v in value)
    value = _number(f.name, type(f.default), value, given)
    choices = f.metadata["choices"]
    if choices and value not in choices:
        raise SettingsError(f"{given} must be one of {', '.join(choices)}.")
    return value


def _number(name: str, kind: type, value: Any, given: str) -> Any:
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise SettingsError(f"{given} must be of type {kind.__name__}.")
    if kind in (int, float):
        if math.isnan(value):
            raise SettingsError(f"{given} is not a number.")
        if not value >= _LEAST.get(name, 0) or (name in _POSITIVE and value == 0):
            raise SettingsError(f"{given} is too small.")
        if value >= _TOO_LARGE[kind] or (name in _BELOW_ONE and value >= 1):
            raise SettingsError(f"{given} is too large.")
    return value

"""`move`: a batch on another device, in the containers in which it came."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, MutableMapping, MutableSequence, Set
from typing import Any

import torch

__all__ = ["move"]


def move(batch: Any, device: torch.device | None) -> Any:
    """A batch on another device; what came in is left as it is.

    Args:
        batch: whatever a loader gives.
        device: where to; None leaves the batch alone.

    Returns:
        The same with all moved that has a method `.to`: in mappings, lists, tuples, sets and
        dataclasses, of whatever type, which they keep. Everything else is passed on.
    """
    if device is None or batch is None or isinstance(batch, str | bytes | int | float):
        return batch
    if callable(getattr(type(batch), "to", None)):  # before tuples: a packed sequence is one
        return _moved_by_itself(batch, device)
    if isinstance(batch, Mapping):
        items = {k: move(v, device) for k, v in batch.items()}
        if type(batch) is dict:
            return items
        if not isinstance(batch, MutableMapping):
            return type(batch)(items)  # type: ignore[call-arg]
        moved = copy.copy(batch)
        for key, value in items.items():
            moved[key] = value
        return moved
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return _dataclass(batch, device)
    if isinstance(batch, tuple):
        return _tuple(batch, [move(v, device) for v in batch])
    if isinstance(batch, MutableSequence) and not isinstance(batch, bytearray):
        moved = copy.copy(batch)
        for i, value in enumerate(batch):
            moved[i] = move(value, device)
        return moved
    if isinstance(batch, Set):
        return type(batch)(move(v, device) for v in batch)  # type: ignore[call-arg]
    return batch


def _moved_by_itself(batch: Any, device: torch.device) -> Any:
    try:
        moved = batch.to(device, non_blocking=True)
    except TypeError:  # it may not know the option
        moved = batch.to(device)
    return batch if moved is None else moved  # it has moved in place


def _dataclass(batch: Any, device: torch.device) -> Any:
    """A dataclass of the same type, past its constructor and its ways of setting: frozen, slots."""
    moved = object.__new__(type(batch))
    getattr(moved, "__dict__", {}).update(getattr(batch, "__dict__", {}))
    for field in dataclasses.fields(batch):
        if hasattr(batch, field.name):
            object.__setattr__(moved, field.name, move(getattr(batch, field.name), device))
    return moved


def _tuple(batch: tuple[Any, ...], values: list[Any]) -> tuple[Any, ...]:
    """A tuple of the same type, named or not, past a constructor of its own."""
    kind = type(batch)
    if kind is tuple:
        return tuple(values)
    if hasattr(kind, "n_fields"):  # those that C makes, such as torch.return_types
        return kind(values)
    moved = tuple.__new__(kind, values)
    getattr(moved, "__dict__", {}).update(getattr(batch, "__dict__", {}))
    return moved

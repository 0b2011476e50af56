"""`rebuilt`: the containers of a batch anew, with what is in them changed or not."""

from __future__ import annotations

import copy
import dataclasses
import types
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Set
from typing import Any

import numpy as np
import torch
from torch import nn

from .._errors import exhausted
from .homes import home

__all__ = ["rebuilt"]


def rebuilt(
    held: Any,
    leaf: Callable[[Any], Any],
    whole: Callable[[Any], bool] = lambda held: False,
    _met: dict[int, Any] | None = None,
) -> Any:
    """The same containers anew, of whatever type, which they keep.

    Args:
        held: mappings, lists, tuples, sets, dataclasses and objects with attributes, in each other;
            or a leaf. Modules, functions, iterators, and objects of torch and NumPy are leaves.
        leaf: gives what takes the place of anything else.
        whole: whether something is a leaf though it is a container.

    Returns:
        What holds the same; nothing that is done to its containers is done to those of `held`.
    """
    if isinstance(held, str | bytes | bytearray) or whole(held):
        return leaf(held)
    kind = type(held)
    met: dict[int, Any] = {} if _met is None else _met

    def again(inside: Any) -> Any:
        return rebuilt(inside, leaf, whole, met)

    if kind is dict:
        return {k: again(v) for k, v in held.items()}
    if isinstance(held, tuple):
        return _tuple(held, [again(v) for v in held])
    if isinstance(held, Mapping):
        if not isinstance(held, MutableMapping):
            return kind({k: again(v) for k, v in held.items()})  # type: ignore[call-arg]
        items = dict(held.items())
        other = _copy(held, again, met)
        for key, value in items.items():
            other[key] = again(value)
        return other
    if isinstance(held, MutableSequence):
        other = copy.copy(held) if kind is list else _copy(held, again, met)
        for i, value in enumerate(held):
            other[i] = again(value)
        return other
    if isinstance(held, Set):
        return kind(again(v) for v in held)  # type: ignore[call-arg]
    if not _has_attributes(held):
        return leaf(held)
    if id(held) in met:  # objects may refer to each other, and back
        return met[id(held)]
    return _dataclass(held, again, met) if _is_data(held) else _copy(held, again, met)


def _is_data(held: Any) -> bool:
    return dataclasses.is_dataclass(held) and not isinstance(held, type)


#: Packages whose objects are leaves.
_CLOSED = ("torch", "numpy", "mlopt")


def _has_attributes(held: Any) -> bool:
    """Whether something is an object that holds others, and no more than that."""
    if _is_data(held):
        return True
    kind = type(held)
    return (
        isinstance(getattr(held, "__dict__", None), dict)
        and not isinstance(held, type | types.ModuleType | nn.Module | torch.Tensor | np.ndarray)
        and not callable(held)
        and not hasattr(kind, "__next__")
        and home(kind).split(".")[0] not in _CLOSED
    )


def _copy(held: Any, again: Callable[[Any], Any], met: dict[int, Any]) -> Any:
    """An object of the same type, with its attributes anew where its class does not copy itself."""
    try:
        other = copy.copy(held)
    except Exception as error:  # it has its reasons
        if exhausted(error):
            raise
        other = held
    met[id(held)] = met[id(other)] = other
    own = getattr(other, "__dict__", None)
    if other is held or not isinstance(own, dict):
        return other
    parts = {k: again(v) for k, v in own.items()}
    if not hasattr(type(held), "__copy__"):  # else its parts may know one another
        own.update(parts)
    return other


def _dataclass(held: Any, again: Callable[[Any], Any], met: dict[int, Any]) -> Any:
    """A dataclass of the same type, past its constructor and its ways of setting: frozen, slots."""
    met[id(held)] = other = object.__new__(type(held))
    own = getattr(held, "__dict__", {})
    getattr(other, "__dict__", {}).update({k: again(v) for k, v in own.items()})
    for field in dataclasses.fields(held):
        if field.name not in own and hasattr(held, field.name):
            object.__setattr__(other, field.name, again(getattr(held, field.name)))
    return other


def _tuple(held: tuple[Any, ...], values: list[Any]) -> tuple[Any, ...]:
    """A tuple of the same type, named or not, past a constructor of its own."""
    kind = type(held)
    if kind is tuple:
        return tuple(values)
    if hasattr(kind, "n_fields"):  # those that C makes, such as torch.return_types
        return kind(values)
    other = tuple.__new__(kind, values)
    getattr(other, "__dict__", {}).update(getattr(held, "__dict__", {}))
    return other

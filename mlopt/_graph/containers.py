"""`rebuilt`: the containers of a batch anew, with what is in them changed or not."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Set
from typing import Any

__all__ = ["rebuilt"]


def rebuilt(
    held: Any, leaf: Callable[[Any], Any], whole: Callable[[Any], bool] = lambda held: False
) -> Any:
    """The same containers anew, of whatever type, which they keep.

    Args:
        held: mappings, lists, tuples, sets and dataclasses, in each other; or a leaf.
        leaf: gives what takes the place of anything else.
        whole: whether something is a leaf though it is a container.

    Returns:
        What holds the same; nothing that is done to its containers is done to those of `held`.
    """

    def again(inside: Any) -> Any:
        return rebuilt(inside, leaf, whole)

    if isinstance(held, str | bytes | bytearray) or whole(held):
        return leaf(held)
    if isinstance(held, Mapping):
        items = {k: again(v) for k, v in held.items()}
        if type(held) is dict:
            return items
        if not isinstance(held, MutableMapping):
            return type(held)(items)  # type: ignore[call-arg]
        other = copy.copy(held)
        for key, value in items.items():
            other[key] = value
        return other
    if dataclasses.is_dataclass(held) and not isinstance(held, type):
        return _dataclass(held, again)
    if isinstance(held, tuple):
        return _tuple(held, [again(v) for v in held])
    if isinstance(held, MutableSequence):
        other = copy.copy(held)
        for i, value in enumerate(held):
            other[i] = again(value)
        return other
    if isinstance(held, Set):
        return type(held)(again(v) for v in held)  # type: ignore[call-arg]
    return leaf(held)


def _dataclass(held: Any, again: Callable[[Any], Any]) -> Any:
    """A dataclass of the same type, past its constructor and its ways of setting: frozen, slots."""
    other = object.__new__(type(held))
    getattr(other, "__dict__", {}).update(getattr(held, "__dict__", {}))
    for field in dataclasses.fields(held):
        if hasattr(held, field.name):
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

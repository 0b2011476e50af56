"""What an annotation asks for: whether a value is of it, and how it reads in words."""

from __future__ import annotations

import numbers
import operator
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal

import numpy as np
import torch

from .limits import Limit, one_of

__all__ = ["WRONG", "Kind", "kind_of"]

WRONG: Any = object()
"""What a kind gives for a value that is not of it."""


@dataclass(frozen=True)
class Kind:
    """A type: how a value is taken, `WRONG` if it is not of the type, and the type in words."""

    take: Callable[[Any, Limit | None], Any]
    text: Callable[[Limit | None], str]


def kind_of(hint: Any) -> Kind:
    """What an annotation asks for."""
    hint = getattr(hint, "__bound__", None) or hint  # of a variable for types
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return _union([kind_of(arg) for arg in args])
    if origin is Literal:
        return _instance(lambda v: isinstance(v, str) and v in args, f"a str{one_of(args).text}")
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin is tuple:
        return _tuple([kind_of(arg) for arg in args if arg is not ...], ... in args)
    if origin in (Sequence, Collection, list) and args:
        return _items(origin, kind_of(args[0]))
    if origin in (Mapping, dict) and args:
        return _mapping(origin, kind_of(args[0]), kind_of(args[1]))
    cls = origin or hint
    is_protocol = getattr(cls, "_is_protocol", False)
    if cls is Callable or (is_protocol and "__call__" in vars(cls)):
        return _instance(callable, "a function")
    if cls is Iterable:
        return _instance(_is_iterable, "something to go through, a list or a loader for example")
    if isinstance(cls, type) and not is_protocol:
        article = "an" if cls.__name__[0] in "AEIOU" else "a"
        return _instance(lambda v: isinstance(v, cls), f"{article} {cls.__name__}")
    return ANYTHING


def _is_iterable(value: Any) -> bool:
    return hasattr(value, "__iter__") or hasattr(value, "__getitem__")


def _instance(holds: Callable[[Any], bool], text: str) -> Kind:
    return Kind(lambda v, _: v if holds(v) else WRONG, lambda _: text)


def _leaf(convert: Callable[[Any], Any], text: str) -> Kind:
    """A number or a string: what a limit speaks of."""

    def take(value: Any, limit: Limit | None) -> Any:
        found = convert(value)
        return WRONG if found is not WRONG and limit and not limit.holds(found) else found

    def words(limit: Limit | None) -> str:
        return text + limit.text if limit else text

    return Kind(take, words)


def _whole(value: Any) -> Any:
    if isinstance(value, (bool, np.bool_)) or getattr(value, "dtype", None) is torch.bool:
        return WRONG
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # a tensor of several has its own
        return WRONG


def _number(value: Any) -> Any:
    if isinstance(value, torch.Tensor):  # of one number, as torch's optimizers take their lr
        constant = value.is_floating_point() and not value.requires_grad
        return value if value.ndim == 0 and constant else WRONG
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return WRONG
    return value if isinstance(value, (int, float)) else float(value)


def _flag(value: Any) -> Any:
    return bool(value) if isinstance(value, (bool, np.bool_)) else WRONG


def _union(kinds: Sequence[Kind]) -> Kind:
    def take(value: Any, limit: Limit | None) -> Any:
        for kind in kinds:
            if (found := kind.take(value, limit)) is not WRONG:
                return found
        return WRONG

    def text(limit: Limit | None) -> str:
        *most, last = [kind.text(limit) for kind in kinds]
        first = ", ".join(most)
        return f"{first}, or {last}" if "," in first else f"{first} or {last}"

    return Kind(take, text)


def _taken(values: Iterable[Any], kinds: Iterable[Kind], limit: Limit | None) -> Any:
    found = [kind.take(v, limit) for v, kind in zip(values, kinds, strict=False)]
    return WRONG if any(v is WRONG for v in found) else found


def _tuple(kinds: Sequence[Kind], any_length: bool) -> Kind:
    def take(value: Any, limit: Limit | None) -> Any:
        if not isinstance(value, (tuple, list)):
            return WRONG
        if not any_length and len(value) != len(kinds):
            return WRONG
        each = [kinds[0]] * len(value) if any_length else kinds
        found = _taken(value, each, limit)
        return found if found is WRONG else value if _same(value, found) else tuple(found)

    def text(limit: Limit | None) -> str:
        inside = [kind.text(limit) for kind in kinds]
        return f"a tuple, each {inside[0]}" if any_length else f"a tuple ({', '.join(inside)})"

    return Kind(take, text)


def _same(value: Any, found: list[Any]) -> bool:
    return isinstance(value, tuple) and all(a is b for a, b in zip(value, found, strict=True))


def _items(cls: type, kind: Kind) -> Kind:
    def take(value: Any, limit: Limit | None) -> Any:
        if not isinstance(value, cls) or isinstance(value, (str, bytes)):
            return WRONG
        return value if _taken(value, [kind] * len(value), limit) is not WRONG else WRONG

    return Kind(take, lambda limit: f"a list or tuple, each {kind.text(limit)}")


def _mapping(cls: type, key: Kind, item: Kind) -> Kind:
    def take(value: Any, limit: Limit | None) -> Any:
        if not isinstance(value, cls):
            return WRONG
        keys = _taken(value, [key] * len(value), None)
        found = _taken(value.values(), [item] * len(value), limit)
        return WRONG if keys is WRONG or found is WRONG else value

    return Kind(take, lambda limit: f"a dict from {key.text(None)} to {item.text(limit)}")


ANYTHING = Kind(lambda v, _: v, lambda _: "anything")
_PLAIN: dict[Any, Kind] = {
    Any: ANYTHING,
    object: ANYTHING,
    NoneType: _instance(lambda v: v is None, "None"),
    bool: _leaf(_flag, "True or False"),
    int: _leaf(_whole, "a whole number"),
    float: _leaf(_number, "a number"),
    str: _leaf(lambda v: v if isinstance(v, str) else WRONG, "a str"),
    torch.Tensor: _instance(lambda v: isinstance(v, torch.Tensor), "a tensor"),
}

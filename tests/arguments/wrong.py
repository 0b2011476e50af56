"""Wrong values for a parameter, from its annotation: of another type, or at a boundary."""

from __future__ import annotations

import collections.abc
import math
import typing
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["wrong_values"]

#: By kind of annotation, under the label by which a table of examples calls a value legal.
WHOLE = {"-1": -1, "0": 0, "1.5": 1.5, "nan": math.nan, "true": True, "text": "1"}
NUMBER = {"-1": -1.0, "0": 0.0, "nan": math.nan, "inf": math.inf, "true": True, "text": "1"}
TEXT = {"3": 3, "empty": "", "unknown": "no such name"}
FLAG = {"2": 2, "text": "yes"}
PATH = {"3": 3, "empty": ""}
FUNCTION = {"3": 3, "text": "print"}
TENSORS = {
    "3": 3,
    "list": [1.0],
    "text": "x",
    "scalar": torch.tensor(0.5),
    "none inside": torch.zeros(0),
    "shape": torch.zeros(2, 3, 5, 1, 1),
    "whole": torch.zeros(3, dtype=torch.int64),
    "complex": torch.zeros(3, dtype=torch.complex64),
}
SEQUENCE = {"3": 3, "text": "abc", "empty": ()}
MAPPING = {"3": 3, "text": "abc", "list": [1]}
ITERABLE = {"3": 3}
OBJECT = {"3": 3, "text": "x"}

SEQUENCES = (collections.abc.Sequence, collections.abc.Collection, list, tuple)
MAPPINGS = (collections.abc.Mapping, dict)


def wrong_values(hint: Any, valid: Any = None) -> dict[str, Any]:
    """Values that an annotation excludes, or that lie at a boundary, by label.

    Args:
        hint: the annotation; none for Any, of which every value is one.
        valid: a right value, whose parts are replaced by wrong ones.

    Returns:
        The values; those at a boundary may be legal after all.
    """
    members = _members(hint)
    if any(member in (Any, object) for member in members):
        return {}
    found: dict[str, Any] = {} if NoneType in members else {"none": None}
    for member in members:
        others = [other for other in members if other is not member]
        for label, value in _of(member, valid).items():
            if not any(_fits(value, other) for other in others):
                found[label] = value
    return found


def _members(hint: Any) -> list[Any]:
    hint = getattr(hint, "__bound__", None) or hint
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return list(typing.get_args(hint))
    return [hint]


def _of(hint: Any, valid: Any) -> dict[str, Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    plain = {int: WHOLE, float: NUMBER, str: TEXT, bool: FLAG, Path: PATH, Tensor: TENSORS}
    if hint is NoneType:
        return {}
    if hint in plain:
        return plain[hint]
    if origin is Literal:
        return TEXT
    if origin in SEQUENCES:
        return SEQUENCE | _inside(args[0], valid, isinstance(valid, (tuple, list)))
    if origin in MAPPINGS:
        return MAPPING
    cls = origin or hint
    if cls is collections.abc.Callable or getattr(cls, "_is_protocol", False):
        return FUNCTION
    if cls is collections.abc.Iterable:
        return ITERABLE
    return {**OBJECT, "class": cls}


def _inside(hint: Any, valid: Any, has_parts: bool) -> dict[str, Any]:
    """A right list with a wrong first item."""
    if not has_parts or not valid:
        return {}
    wrong = wrong_values(hint, valid[0])
    return {f"{label} inside": (value, *valid[1:]) for label, value in wrong.items()}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the annotation's type, however far out of range."""
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, (int, float))
    cls = typing.get_origin(hint) or hint
    if cls is Literal:
        return value in typing.get_args(hint)
    return isinstance(cls, type) and isinstance(value, cls)

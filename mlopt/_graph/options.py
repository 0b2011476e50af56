"""Checks of what a call is given; an error says whose argument it is, and what that takes."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from typing import Any

from torch import Tensor

from .._errors import GraphError, MloptError

__all__ = ["flag", "listed", "optional_name", "whole"]

# What can be iterated, and is no list of anything.
_UNORDERED = (str, bytes, Mapping, Set, Tensor, type)


def whole(
    where: str,
    option: str,
    value: Any,
    least: int | None,
    meaning: str,
    error: type[MloptError] = GraphError,
) -> int:
    """A whole number, of Python's type or NumPy's.

    Args:
        where: whose argument it is.
        option: its name.
        value: what was given.
        least: the smallest that there is a meaning for; None if all have one.
        meaning: in a few words.
        error: what is raised.

    Returns:
        The number.

    Raises:
        MloptError: of the class `error`: it is something else, or too small.
    """
    number = None
    if not isinstance(value, bool):
        with suppress(TypeError, ValueError, RuntimeError):  # a tensor of several has its own
            number = operator.index(value)
    if number is None or (least is not None and number < least):
        bound = "" if least is None else f" of at least {least}"
        raise error(f"{where}: {option}={value!r} must be a whole number{bound}: {meaning}.")
    return number


def flag(where: str, option: str, value: Any, error: type[MloptError] = GraphError) -> bool:
    """True or False.

    Args:
        where: whose argument it is.
        option: its name.
        value: what was given.
        error: what is raised.

    Returns:
        The value.

    Raises:
        MloptError: of the class `error`: it is neither.
    """
    if not isinstance(value, bool):
        raise error(f"{where}: {option}={value!r} must be True or False.")
    return value


def listed(
    where: str, option: str, value: Any, example: str, error: type[MloptError] = GraphError
) -> tuple[Any, ...]:
    """The entries of a list, or of anything else that has an order.

    Args:
        where: whose argument it is.
        option: its name.
        value: what was given.
        example: of what it takes.
        error: what is raised.

    Returns:
        The entries.

    Raises:
        MloptError: of the class `error`: it is no list.
    """
    if not isinstance(value, Iterable) or isinstance(value, _UNORDERED):
        raise error(f"{where}: {option}= takes a list, e.g. {example}, got {_shown(value)}.")
    return tuple(value)


def optional_name(where: str, value: Any) -> None:
    """Refuse a label that is not one.

    Args:
        where: whose argument it is.
        value: what was given; None stands for a default.

    Raises:
        GraphError: it is neither None nor a word.
    """
    if value is not None and not (isinstance(value, str) and value):
        raise GraphError(f"{where}: name={value!r} must be a word, or None for the function's own.")


def _shown(value: Any) -> str:
    name = getattr(value, "name", None)
    return f"{name} alone" if isinstance(name, str) else f"a {type(value).__name__}"

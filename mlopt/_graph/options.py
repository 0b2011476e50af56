"""Checks of lists and names; an error says whose argument it is, and gives an example."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

from torch import Tensor

from .._errors import GraphError, MloptError

__all__ = ["listed", "optional_name"]

# What can be iterated, and is no list of anything.
_UNORDERED = (str, bytes, Mapping, Set, Tensor, type)


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

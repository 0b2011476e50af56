"""`checked` and `check_fields`: the arguments of a function, the fields of a dataclass."""

from __future__ import annotations

import contextlib
import functools
import inspect
import numbers
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from types import NoneType
from typing import Any, TypeVar

import torch

from .kinds import WRONG, Kind, kind_of
from .limits import Limit, in_body

__all__ = ["check_fields", "checked", "shown", "take"]

F = TypeVar("F", bound=Callable[..., Any])


def checked(error: type[Exception], **limits: Limit) -> Callable[[F], F]:
    """Check the arguments of a function, a method or an `__init__` at every call.

    In a compiled graph nothing is checked.

    Args:
        error: what is raised.
        **limits: by parameter.

    Returns:
        The decorator.
    """

    def decorate(function: F) -> F:
        parameters = inspect.signature(function).parameters
        unknown = limits.keys() - parameters.keys()
        assert not unknown, f"{function.__qualname__} has no parameter {unknown}"
        ordered = [p.name for p in parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
        rest = {p.kind: p.name for p in parameters.values()}
        more = rest.get(inspect.Parameter.VAR_POSITIONAL)
        others = rest.get(inspect.Parameter.VAR_KEYWORD)

        @functools.cache  # at the first call: annotations may name what is defined later
        def kinds() -> dict[str, Kind]:
            hints = typing.get_type_hints(function)
            own = {name for name, limit in limits.items() if limit is in_body}
            return {n: kind_of(hints[n]) for n in parameters if n in hints and n not in own}

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return function(*args, **kwargs)
            known = kinds()

            def taken(name: str | None, value: Any) -> Any:
                kind = known.get(name) if name else None
                if name is None or kind is None:  # it is in the body, or Python refuses it
                    return value
                found = kind.take(value, limits.get(name))
                if found is WRONG:
                    raise error(_refusal(_where(function, args), name, value, kind, limits))
                return found

            names = ordered if len(args) <= len(ordered) else [*ordered, *[more] * len(args)]
            given = [taken(name, value) for name, value in zip(names, args, strict=False)]
            options = {n: taken(n if n in parameters else others, v) for n, v in kwargs.items()}
            return function(*given, **options)

        return typing.cast(F, call)

    return decorate


def check_fields(record: Any, error: type[Exception], **limits: Limit) -> None:
    """Check the fields of a dataclass, in its `__post_init__`; lists become tuples.

    Args:
        record: the new object.
        error: what is raised.
        **limits: by field.

    Raises:
        error: a field is not what it must be.
    """
    kinds = _field_kinds(type(record))
    for name, kind in kinds.items():
        value = getattr(record, name)
        found = kind.take(value, limits.get(name))
        if found is WRONG:
            raise error(_refusal(type(record).__name__, name, value, kind, limits))
        if found is not value:
            object.__setattr__(record, name, found)


def take(
    error: type[Exception], where: str, name: str, value: Any, hint: Any, limit: Limit | None = None
) -> Any:
    """Check one value, where it is known best whose it is.

    Args:
        error: what is raised.
        where: whose argument it is.
        name: of the argument.
        value: what was given.
        hint: its annotation.
        limit: beside it.

    Returns:
        The value, as a Python number if it is a number.

    Raises:
        error: it is not what it must be.
    """
    kind = kind_of(hint)
    found = kind.take(value, limit)
    if found is WRONG:
        raise error(_refusal(where, name, value, kind, {name: limit} if limit else {}))
    return found


@functools.cache
def _field_kinds(cls: Any) -> dict[str, Kind]:
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        # A subclass of the user's may name types that only its own function knows.
        with contextlib.suppress(NameError):
            hints |= typing.get_type_hints(base)
    return {f.name: kind_of(hints[f.name]) for f in fields(cls) if f.init and f.name in hints}


def _where(function: Any, args: Sequence[Any]) -> str:
    owner, _, name = function.__qualname__.rpartition("<locals>.")[2].rpartition(".")
    if owner and args:  # of what it was called on, which may be a subclass
        owner = getattr(args[0], "__name__", type(args[0]).__name__)
    return owner if name == "__init__" else f"{owner}.{name}" if owner else name


def _refusal(
    where: str,
    name: str,
    value: Any,
    kind: Kind,
    limits: Mapping[str, Limit],
) -> str:
    text = f"{where}({name}={shown(value)}): {name} must be {kind.text(limits.get(name))}."
    if isinstance(value, torch.Tensor) and value.requires_grad:
        text += " It requires grad, and would be taken for a constant."
    if isinstance(value, type):
        text += f" Give an object, {value.__name__}(...), instead of the class."
    return text


def shown(value: Any) -> str:
    """A value in a message: in full if it is short and made of plain Python, else its type."""
    if isinstance(value, torch.Tensor):
        return f"<tensor of shape {tuple(value.shape)}, {value.dtype}>"
    if isinstance(value, type):
        return value.__name__
    items = [value]
    if isinstance(value, (list, tuple, dict)):
        items = [*value.values(), *value] if isinstance(value, dict) else value
    if len(items) < 20 and all(map(_is_plain, items)):
        text = repr(value)
        return text if len(text) < 100 else f"{text[:97]}..."
    return f"<{type(value).__name__}>"


def _is_plain(value: Any) -> bool:
    if isinstance(value, int):
        return value.bit_length() < 1000  # of many thousands of digits Python shows none
    return isinstance(value, (str, numbers.Number, NoneType))

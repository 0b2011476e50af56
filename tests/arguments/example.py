"""A right call of a public name, from which the wrong ones are made."""

from __future__ import annotations

import inspect
import itertools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Example", "call", "folder", "of"]

_SCRATCH = tempfile.TemporaryDirectory()
_NUMBERS = itertools.count()


def folder() -> Path:
    """A new folder, gone at the end."""
    path = Path(_SCRATCH.name) / str(next(_NUMBERS))
    path.mkdir()
    return path


@dataclass(frozen=True)
class Example:
    """A right call.

    Attributes:
        arguments: makes its arguments anew.
        legal: by parameter, the labels of boundary values that are right.
        wrong: by parameter, wrong values that its annotation does not tell; also by its name alone
            where every value is right.
        on: makes what a method is called on.
    """

    arguments: Callable[[], dict[str, Any]]
    legal: Mapping[str, str] = field(default_factory=dict)
    wrong: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    on: Callable[[], Any] | None = None


def of(
    arguments: Callable[[], dict[str, Any]] | None = None,
    *,
    on: Callable[[], Any] | None = None,
    wrong: Mapping[str, tuple[Any, ...]] | None = None,
    **legal: str,
) -> Example:
    """An example; what is legal is given by parameter, labels between commas."""
    return Example(arguments or dict, legal, wrong or {}, on)


def call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call by name, but for `*rest` and `**options`, which are unpacked."""
    kinds = {p.name: p.kind for p in inspect.signature(function).parameters.values()}
    rest = next((n for n, k in kinds.items() if k is inspect.Parameter.VAR_POSITIONAL), None)
    options = next((n for n, k in kinds.items() if k is inspect.Parameter.VAR_KEYWORD), None)
    given, named = [], dict(arguments)
    if rest is not None:
        before = list(kinds)[: list(kinds).index(rest)]
        given = [named.pop(name) for name in before if name in named]
        given += named.pop(rest, ())
    more = named.pop(options, {}) if options else {}
    return function(*given, **named, **more)

"""A configuration object in a few words, for graphs, plans and messages."""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["brief"]


def brief(value: Any) -> str:
    """A configuration object with those of its options that are not the default."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return repr(value)
    options = []
    for field in dataclasses.fields(value):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if (given := getattr(value, field.name)) != default:
            positional = default is dataclasses.MISSING
            options.append(brief(given) if positional else f"{field.name}={brief(given)}")
    return f"{type(value).__name__}({', '.join(options)})"

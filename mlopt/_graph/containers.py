"""`rebuilt`: the containers of a batch anew, with what is in them changed or not."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, MutableMapping
from typing import Any

__all__ = ["rebuilt"]


def rebuilt(held: Any, leaf: Callable[[Any], Any]) -> Any:
    """The same containers anew, of their own classes.

    Args:
        held: a dict or another mapping, a list, a tuple, a data class, in each other; or a leaf.
        leaf: gives what takes the place of anything else.

    Returns:
        What has the containers of `held` and nothing that it can change of them.
    """
    if isinstance(held, dict | MutableMapping):
        if type(held) is dict:
            return {k: rebuilt(v, leaf) for k, v in held.items()}
        other = copy.copy(held)
        for k, v in held.items():
            other[k] = rebuilt(v, leaf)
        return other
    if isinstance(held, list):
        inside = [rebuilt(v, leaf) for v in held]
        if type(held) is list:
            return inside
        other = copy.copy(held)
        other[:] = inside
        return other
    if isinstance(held, tuple):
        inside = [rebuilt(v, leaf) for v in held]
        return type(held)(*inside) if hasattr(held, "_fields") else type(held)(inside)
    if dataclasses.is_dataclass(held) and not isinstance(held, type):
        other = copy.copy(held)
        for f in dataclasses.fields(held):
            object.__setattr__(other, f.name, rebuilt(getattr(held, f.name), leaf))
        return other
    return leaf(held)

"""Whether something can be called as it will be."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["stateful", "takes"]


def takes(function: Callable[..., Any], *arguments: object) -> bool:
    """Whether a function can be called with so many arguments."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # some callables in C have no signature
        pass
    return True


def stateful(thing: object) -> bool:
    """Whether it has `state_dict()` and `load_state_dict(state)`, and not others of these names."""
    save, load = (getattr(thing, name, None) for name in ("state_dict", "load_state_dict"))
    return callable(save) and callable(load) and takes(save) and takes(load, None)

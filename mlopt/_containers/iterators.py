"""`moves_on`: which iterators can be gone through once only."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator

from .contents import classes

__all__ = ["moves_on"]


@functools.lru_cache(256)
def moves_on(kind: type) -> bool:
    """Whether a class's objects are iterators that never begin anew.

    Args:
        kind: any class. Those of users may be their own iterators, which begin anew when they are
            asked to (`iter`).

    Returns:
        True for generators, files and the other iterators of Python, NumPy and torch.
    """
    if not issubclass(kind, Iterator) or kind in weakref.ProxyTypes:
        return False
    gives = next((k for k in kind.__mro__ if "__next__" in vars(k)), Iterator)
    return gives not in classes(kind)

"""`unswept`: Python's collector of cycles does not come in the middle of a step."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["unswept"]

#: So many objects more than have gone call the collector within a step.
_MANY = 100_000


@contextmanager
def unswept() -> Iterator[None]:
    """A block of which the objects are left to their reference counts.

    A step makes no cycles. But what it makes lives to its end: tens of thousands of tensors, which
    call the collector hundreds of times, and in the end for all that the process holds. That takes
    a tenth of a second of Python where torch is loaded, each time on another rank, for which all
    the others wait.
    """
    before = gc.get_threshold()
    if 0 < before[0] < _MANY:
        gc.set_threshold(_MANY, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)

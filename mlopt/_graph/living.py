"""`Living`: objects by keys, as long as somebody else holds them."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

__all__ = ["Living"]

_T = TypeVar("_T")


class Living(Generic[_T]):
    """Objects by keys; none is kept alive.

    The dictionaries of `weakref` do the same by a callback for each object that dies. It is called
    in the middle of whatever runs, and Python has nowhere to raise an interrupt that falls into it:
    Ctrl-C would be lost. Here the dead are dropped when others are put in.
    """

    def __init__(self) -> None:
        self._held: dict[Hashable, weakref.ref[_T]] = {}
        self._most = 64  # after that many the dead are dropped

    def get(self, key: Hashable) -> _T | None:
        """What has this key and lives."""
        found = self._held.get(key)
        return None if found is None else found()

    def put(self, key: Hashable, value: _T) -> None:
        """Let this key stand for this object."""
        self._held[key] = weakref.ref(value)
        if len(self._held) > self._most:
            self._held = {k: r for k, r in self._held.items() if r() is not None}
            self._most = 64 + 2 * len(self._held)

    def drop(self, key: Hashable) -> None:
        """Let this key stand for nothing."""
        self._held.pop(key, None)

    def __iter__(self) -> Iterator[_T]:
        return iter([value for found in [*self._held.values()] if (value := found()) is not None])

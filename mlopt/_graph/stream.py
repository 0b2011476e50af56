"""`Stream`: one sequence of batches, shared by all who read it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from .._errors import DataError

__all__ = ["Stream", "describe"]

_streams: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()


class Stream:
    """The batches of one loader, pass after pass. Who shares a stream shares its batches.

    A plain loader given as `data=` is wrapped into the one stream of that object, so this class is
    needed only to name a stream (`run(epoch=stream)`) or to read one loader at two paces.

    Args:
        loader: anything that can be iterated again and again: a `DataLoader`, a list of batches.

    Raises:
        DataError: the loader is empty, or can be iterated only once.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        if not isinstance(loader, Iterable):
            raise DataError(f"data= takes a loader or a Stream, got {type(loader).__name__}.")
        if isinstance(loader, Iterator):
            raise DataError(
                f"data= was given an iterator ({type(loader).__name__}), which ends after one "
                "pass; give the loader itself."
            )
        try:
            self.length: int | None = len(loader)  # type: ignore[arg-type]
        except TypeError:
            self.length = None
        if self.length == 0:
            raise DataError(
                f"{describe(loader)} has no batches: is the data set smaller than drop_last's "
                "batch?"
            )
        self.loader = loader

    @staticmethod
    def of(loader: Any) -> Stream:
        """The stream of this loader object: the same one for the same object."""
        if isinstance(loader, Stream):
            return loader
        known = _streams.get(id(loader))
        if known is None or known.loader is not loader:
            known = _streams[id(loader)] = Stream(loader)
        return known

    def __repr__(self) -> str:
        return f"Stream({describe(self.loader)})"


def describe(loader: Any) -> str:
    """What errors call a loader: its class, and that of its data set."""
    data = getattr(loader, "dataset", None)
    inner = f" over {type(data).__name__}" if data is not None else ""
    return f"{type(loader).__name__}{inner}"

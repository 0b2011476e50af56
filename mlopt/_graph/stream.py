"""`Stream`: one sequence of batches, shared by all who read it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .._containers.loaders import check_loader, describe, length_of
from .._errors import DataError
from .living import Living

__all__ = ["Stream", "stream_of"]

_streams: Living[Stream] = Living()


class Stream:
    """The batches of one loader, pass after pass. Who shares a stream shares its batches.

    A plain loader given as `data=` is wrapped into the one stream of that object, so this class is
    needed only to name a stream (`run(epoch=stream)`) or to read one loader at two paces.

    Each engine makes passes of its own, which end where the loader ends them. A batch is drawn by
    the step that reads it; without a length, when the step before is over. Before each pass,
    `set_epoch` of the loader, its data sets and its samplers, where they have one, is called with
    the number of the pass, from 0. Generators that one of them holds, of torch, NumPy or Python,
    are used from where they stand when the engine first draws, and put back after each draw; where
    one of torch has another seed since then (`manual_seed`), the next pass begins from that.

    Args:
        loader: anything that can be iterated again and again: a `DataLoader`, a list of batches.
            One that is its own iterator must begin anew at each `iter(loader)`.

    Raises:
        DataError: it is no loader, is empty, or can be iterated only once.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        _check(loader, "Stream: loader=")
        self._loader, self._length = loader, length_of(loader)

    @property
    def loader(self) -> Iterable[Any]:
        """What was given."""
        return self._loader

    @property
    def length(self) -> int | None:
        """Batches in a pass, if the loader says so; it may be wrong."""
        return self._length

    @staticmethod
    def of(loader: Any) -> Stream:
        """The stream of this loader object: the same one for the same object.

        Args:
            loader: the loader, or a stream, which is returned as it is.

        Returns:
            The stream.

        Raises:
            DataError: as the class.
        """
        return stream_of(loader, "Stream: loader=")

    def __repr__(self) -> str:
        return f"Stream({describe(self.loader)})"


def stream_of(loader: Any, where: str) -> Stream:
    """The stream of a loader; errors say whose argument it is.

    Args:
        loader: the loader, or a stream, which is returned as it is.
        where: whose argument it is.

    Returns:
        The stream.
    """
    if isinstance(loader, Stream):
        return loader
    known = _streams.get(id(loader))
    if known is None or known.loader is not loader:
        _check(loader, where)
        known = Stream(loader)
        _streams.put(id(loader), known)
    return known


def _check(loader: Any, where: str) -> None:
    """Refuse what gives no batches, or something else than batches."""
    if isinstance(loader, Stream):
        raise DataError(f"{where} is a Stream already: use it as it is, or give its loader.")
    check_loader(loader, where, "a loader or a Stream")

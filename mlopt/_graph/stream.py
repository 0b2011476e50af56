"""`Stream`: one sequence of batches, shared by all who read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

from torch.utils.data import Dataset

from .._errors import DataError
from .iterators import moves_on
from .living import Living

__all__ = ["Stream", "describe", "length_of", "stream_of"]

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


def describe(loader: Any) -> str:
    """What errors call a loader: its class, and that of its data set."""
    data = getattr(loader, "dataset", None)
    inner = f" over {type(data).__name__}" if data is not None else ""
    return f"{type(loader).__name__}{inner}"


def length_of(loader: Any) -> int | None:
    """How many batches a loader says that a pass has; None if it does not say."""
    try:
        return len(loader)
    except Exception:  # a loader has no length for many reasons, and raises accordingly
        return None


def _check(loader: Any, where: str) -> None:
    """Refuse what gives no batches, or something else than batches."""
    kind = type(loader).__name__
    if hasattr(loader, "__array__"):
        shape = tuple(getattr(loader, "shape", ()))
        raise DataError(
            f"{where} takes a loader, got a {kind} of shape {shape}, which would give its rows one "
            "by one. For all of it as one batch write data=[(x, y)]; for smaller ones "
            "DataLoader(TensorDataset(x, y), batch_size=...)."
        )
    if isinstance(loader, Mapping | Set | str | bytes):
        raise DataError(
            f"{where} takes a loader or a Stream, got a {kind}. For a single batch write "
            "data=[batch]."
        )
    if isinstance(loader, Dataset) and not isinstance(loader, Iterable):
        raise DataError(
            f"{where} takes a loader or a Stream, got the data set {kind}. Make batches of it: "
            "DataLoader(dataset, batch_size=...)."
        )
    if isinstance(loader, Stream):
        raise DataError(f"{where} is a Stream already: use it as it is, or give its loader.")
    if not (isinstance(loader, Iterable) or _is_sequence(loader)):
        raise DataError(f"{where} takes a loader or a Stream, got {kind}.")
    if moves_on(type(loader)):
        raise DataError(
            f"{where} was given an iterator ({kind}), which ends after one pass; give the loader "
            "itself."
        )
    if isinstance(loader, type):
        raise DataError(f"{where} takes a loader, got the class {loader.__name__}; make one.")
    if length_of(loader) == 0:
        raise DataError(
            f"{where}: {describe(loader)} has no batches: is the data set smaller than drop_last's "
            "batch?"
        )


def _is_sequence(loader: Any) -> bool:
    """Whether `iter` goes through it by index, though it has no `__iter__`."""
    kind = type(loader)
    return hasattr(kind, "__getitem__") and hasattr(kind, "__len__") and not hasattr(kind, "keys")

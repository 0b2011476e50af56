"""Loaders: what may be one, what it is called, and how many batches it says that it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

from torch.utils.data import Dataset

from .._errors import DataError
from .iterators import moves_on

__all__ = ["check_loader", "describe", "length_of", "shared"]


def describe(loader: Any) -> str:
    """What errors call a loader: its class, and that of its data set."""
    loader = _whole(loader)
    data = _whole(getattr(loader, "dataset", None))
    inner = f" over {type(data).__name__}" if data is not None else ""
    return f"{type(loader).__name__}{inner}"


def _whole(held: Any) -> Any:
    """What something was before it was split over ranks."""
    return getattr(held, "split_of", held)


def shared(loader: Any) -> tuple[str, int] | None:
    """What gives a loader's batches to several ranks, a share to each.

    Args:
        loader: anything that gives batches.

    Returns:
        The class of the sampler or loader that does, and to how many; None where all of a batch is
        given.
    """
    waiting, seen = [loader], set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if (ranks := getattr(one, "num_replicas", 1)) != 1:
            return type(one).__name__, ranks
        waiting += [getattr(one, name, None) for name in ("batch_sampler", "sampler")]
    return None


def length_of(loader: Any) -> int | None:
    """How many batches a loader says that a pass has; None if it does not say."""
    try:
        return len(loader)
    except Exception:  # a loader has no length for many reasons, and raises accordingly
        return None


def check_loader(loader: Any, where: str, takes: str = "a loader") -> None:
    """Refuse what gives no batches, or something else than batches.

    Args:
        loader: what was given.
        where: whose argument it is, for the error.
        takes: what may be given there.

    Raises:
        DataError: it is no loader, is empty, or can be iterated only once.
    """
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
            f"{where} takes {takes}, got a {kind}. For a single batch write data=[batch]."
        )
    if isinstance(loader, Dataset) and not isinstance(loader, Iterable):
        raise DataError(
            f"{where} takes {takes}, got the data set {kind}. Make batches of it: "
            "DataLoader(dataset, batch_size=...)."
        )
    if not (isinstance(loader, Iterable) or _is_sequence(loader)):
        raise DataError(f"{where} takes {takes}, got {kind}.")
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

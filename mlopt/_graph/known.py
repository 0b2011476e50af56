"""What is known of a loader: `makes_anew` of its batches, `certain` of passes; what is said."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, default_collate

from .._errors import CapabilityWarning, DataError
from .stream import describe

__all__ = ["certain", "ended_early", "makes_anew", "say_moved"]


def makes_anew(loader: Any) -> bool:
    """Whether each batch surely has memory of its own, as those have that torch collates."""
    if type(loader) is not DataLoader:
        return False
    return loader.collate_fn is default_collate or loader.num_workers > 0


def certain(loader: Any) -> bool:
    """Whether a pass cannot have another length than the loader says."""
    if type(loader) in (list, tuple, range):
        return True
    if type(loader) is not DataLoader or isinstance(loader.dataset, IterableDataset):
        return False
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    kinds = (type(sampler), type(getattr(sampler, "sampler", sampler)))
    return all(kind.__module__.startswith("torch.utils.data") for kind in kinds)


def say_moved(loader: Any, moved: Sequence[tuple[str, str]]) -> None:
    """Warn that a loader changes of itself while others read it, too.

    Args:
        loader: the loader.
        moved: what, by class and name.
    """
    warnings.warn(
        f"{describe(loader)} changes {', '.join('.'.join(k) for k in moved)} while it is read, and "
        "another engine or stream reads it, too: each sees what the other has changed. If the "
        "batches depend on it, give each a loader of its own, or a method set_epoch(), which is "
        "told the pass.",
        CapabilityWarning,
        stacklevel=2,
    )


def ended_early(loader: Any, number: int, taken: int) -> DataError:
    """The error of a pass that has ended before it should.

    Args:
        loader: the loader.
        number: of the pass.
        taken: how many batches it has given.

    Returns:
        The error.
    """
    name = describe(loader)
    if taken:
        return DataError(
            f"{name} ended its pass after {taken} batches, where it has more by its length, or by "
            "the same pass before. Does it raise StopIteration, or change while it is read?"
        )
    again = (
        f"; pass {number} was the first to be empty. Can it be read once only? Each pass begins "
        "with iter(loader), which has to begin anew."
    )
    return DataError(f"{name} gave no batch in a whole pass{again if number else '.'}")

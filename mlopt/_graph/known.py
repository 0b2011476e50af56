"""What is known of a loader: `makes_anew` of its batches, `certain` of passes; what is said."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, default_collate

from .._containers.loaders import describe
from .._errors import CapabilityWarning, DataError
from ..distributed.slices import OwnSamples, Slices

__all__ = [
    "certain", "ended_early", "makes_anew", "not_free", "say_again", "say_long", "say_moved",
    "say_short", "say_where",
]  # fmt: skip

#: Seconds for which going through a pass again may keep one waiting without a word.
_LONG = 5.0


def makes_anew(loader: Any) -> bool:
    """Whether each batch surely has memory of its own, as those have that torch collates."""
    if type(loader) is not DataLoader:
        return False
    data = loader.dataset
    collate_fn = data.collate_fn if isinstance(data, OwnSamples) else loader.collate_fn
    return collate_fn is default_collate or loader.num_workers > 0


def certain(loader: Any) -> bool:
    """Whether a pass cannot have another length than the loader says."""
    if type(loader) in (list, tuple, range):
        return True
    if type(loader) is not DataLoader or isinstance(loader.dataset, IterableDataset):
        return False
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    if isinstance(sampler, Slices):
        sampler = sampler.split_of
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


def say_again(loader: Any) -> None:
    """Warn that a pass of what is its own iterator is gone through again."""
    warnings.warn(
        f"A pass of {describe(loader)} is gone through again, after a draw that failed or in a "
        "copy of its engine. It is its own iterator: if iter(loader) does not begin it anew, "
        "batches are left out.",
        CapabilityWarning,
        stacklevel=2,
    )


def say_long(loader: Any, batches: int, seconds: float) -> None:
    """Warn that a pass was gone through again for long.

    Args:
        loader: the loader.
        batches: that were read for it.
        seconds: that this took.
    """
    if batches and seconds >= _LONG:
        warnings.warn(
            f"To go on in its pass, {batches} batches of {describe(loader)} were read again, in "
            f"{seconds:.0f} s. mlopt.data.loader, and loaders with state_dict() and "
            "load_state_dict(), such as torchdata's StatefulDataLoader, go there at once.",
            CapabilityWarning,
            stacklevel=2,
        )


def not_free(loader: Any) -> DataError:
    """The error of a loader in which another's pass would be gone on with."""
    return DataError(
        f"{describe(loader)} hands out one iterator to all who iterate over it, and another engine "
        "or stream is in the middle of a pass. Give each a loader of its own."
    )


def say_short(loader: Any, taken: int, length: int) -> None:
    """Warn that a pass was shorter than the loader says."""
    warnings.warn(
        f"{describe(loader)} ended its pass after {taken} batches, where its length says {length}. "
        "The pass is counted one step late, and the length is not believed again.",
        CapabilityWarning,
        stacklevel=2,
    )


def say_where(error: Exception, loader: Any, number: int, batch: int) -> None:
    """Note on an error of a loader in which pass it was raised, and at which batch of it."""
    if sys.version_info >= (3, 11):  # before, errors take no notes
        error.add_note(
            f"mlopt: raised by {describe(loader)}, pass {number}, batch {batch} (both from 0)."
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

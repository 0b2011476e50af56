"""What is known of a loader: `makes_anew` of its batches, `certain` of passes; what is said."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, default_collate

from .._errors import CapabilityWarning
from .stream import describe

__all__ = ["certain", "makes_anew", "say_moved"]


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

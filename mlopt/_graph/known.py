"""What is known of a loader before it is read: `makes_anew` of its batches, `certain` of passes."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, IterableDataset, default_collate

__all__ = ["certain", "makes_anew"]


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

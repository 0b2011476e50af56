"""`split`: a loader of this rank's slices of the batches of another one."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch.distributed
from torch.utils.data import DataLoader, IterableDataset

from .._arguments import checked, from_one, from_zero
from .._containers.loaders import check_loader, describe, shared
from .._errors import DataError, SettingsError
from .slices import Cut, OwnSamples, Place, Slices, WorkerStart, as_it_is

__all__ = ["split"]


@checked(SettingsError, rank=from_zero, world=from_one)
def split(loader: Iterable[Any], rank: int | None = None, world: int | None = None) -> Any:
    """This rank's slice of every batch: the batches are those that one rank has.

    The slices of all ranks, joined in their order, are the batch: they differ by one sample at the
    most, the larger ones first, as the parts of `Engine(parts=world)` do. Where a batch has fewer
    samples than there are ranks, the last ranks get an `EmptySlice`.

    - A `DataLoader` over a data set with indices **reads and collates this rank's samples only**;
      all else is as it was: the order, workers, pinned memory. So are batches of `mlopt.data`.
    - One over an `IterableDataset`, one without batches (`batch_size=None`) whose sampler gives
      single indices, and anything else that can be iterated again and again **reads whole
      batches**, on each rank, and cuts them: tensors, arrays and lists of one entry for each
      sample, in the containers in which they come. A list of batches is cut at once. Use a loader
      that gives each rank other samples by itself as it is.

    All ranks need equal loaders, and equal generators of random numbers: an `Engine` sees to
    torch's by its seed. Samplers draw what they draw on one rank. What a data set or `collate_fn`
    draws from the global generators of torch, Python and NumPy to read samples is another number on
    each rank, and so not that of one rank; it follows from where torch's generator stands. A
    `WholeBatch` augmentation of `mlopt.data` draws the same as on one rank; a function of single
    images the same on the first rank alone. A data set with a generator of its own needs another
    seed on each rank, and no sampler may share it.

    Args:
        loader: as one rank would use it, with the batch size of all ranks together.
        rank: which one this is; by default that of torch.distributed's default group.
        world: how many there are; likewise.

    Returns:
        The loader of slices, with the one that was given in `split_of`; or, of a list, a list. What
        was given, if there is one rank or no group.

    Raises:
        SettingsError: `rank` is not below `world`, or only one of the two is given.
        DataError: it is no loader; or its sampler gives each rank samples of its own already.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader
        >>> from mlopt.distributed import split
        >>> batches = DataLoader(torch.arange(5), batch_size=5)
        >>> [[slice.tolist() for slice in split(batches, rank, 2)] for rank in (0, 1)]
        [[[0, 1, 2]], [[3, 4]]]
    """
    check_loader(loader, "split: loader=")
    place = _place(rank, world)
    if place.world == 1:
        return loader
    _refuse_shared(loader)
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        return _of_samples(loader, place)
    if type(loader) in (list, tuple):
        return [place.cut(batch, loader) for batch in loader]
    return Cut(loader, place)


def _place(rank: int | None, world: int | None) -> Place:
    if rank is None and world is None:
        group = torch.distributed
        if not (group.is_available() and group.is_initialized()):
            return Place(0, 1)
        return Place(group.get_rank(), group.get_world_size())
    if rank is None or world is None:
        raise SettingsError(
            f"split(rank={rank}, world={world}): give both, or neither: the default group of "
            "torch.distributed knows them."
        )
    if rank >= world:
        raise SettingsError(
            f"split(rank={rank}, world={world}): ranks are counted from 0, so rank must be below "
            "world."
        )
    return Place(rank, world)


def _of_samples(loader: DataLoader[Any], place: Place) -> DataLoader[Any]:
    """The same loader, of whatever class, which reads slices."""
    samples = loader.batch_sampler is not None
    name = "batch_sampler" if samples else "sampler"
    changed: dict[str, Any] = {
        name: Slices(getattr(loader, name), place, samples, loader.generator),
        "dataset": OwnSamples(loader.dataset, place, loader.collate_fn, samples),
        "collate_fn": as_it_is,
        "split_of": loader,
        "_iterator": None,
    }
    # A loader that says where it stands sends its workers other batches in one go when it goes
    # there, and seeds would be others: a pass is gone through again.
    changed |= {n: None for n in ("state_dict", "load_state_dict") if hasattr(loader, n)}
    if loader.num_workers > 0:
        # Where whole items are read and cut, all ranks draw alike.
        changed["worker_init_fn"] = WorkerStart(
            loader.worker_init_fn, place.rank if samples else None
        )
    other = copy.copy(loader)
    vars(other).update(changed)  # a loader refuses to be set other samplers
    return other


def _refuse_shared(loader: Any) -> None:
    """Refuse a loader whose samplers know of ranks."""
    if (found := shared(loader)) is not None:
        by, ranks = found
        raise DataError(
            f"split: loader= {describe(loader)} gives one of {ranks} ranks its samples already, by "
            f"its {by}. Use it as it is; or give split a loader whose sampler draws the batches of "
            "all ranks."
        )

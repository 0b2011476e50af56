"""One rank's slices of batches: which rows they are, and how they are read alone.

What wraps something says in `split_of` what that was, and in `num_replicas` how many ranks share
it, as the samplers of torch do that know of ranks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from .._containers.loaders import describe
from .._containers.rows import count_rows, even, take_rows
from .._errors import DataError
from .._replay import Generators, derive_seed

__all__ = ["Cut", "EmptySlice", "OwnSamples", "Place", "Slices", "WorkerStart", "as_it_is"]


class EmptySlice:
    """Stands for a rank's slice of a batch that has fewer samples than there are ranks.

    The rank has nothing to evaluate then, and counts nothing in a mean. All are equal.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EmptySlice)

    def __hash__(self) -> int:
        return hash(EmptySlice)

    def __repr__(self) -> str:
        return "EmptySlice()"


@dataclass(frozen=True)
class Place:
    """A rank's among others: which rows of a batch are its own.

    Args:
        rank: which one, from 0.
        world: how many there are.
    """

    rank: int
    world: int

    def rows(self, samples: int) -> range | None:
        """This rank's rows: those that part `rank` of `Engine(parts=world)` has.

        Args:
            samples: in the batch.

        Returns:
            The rows; None where there are not as many samples as ranks, and none is left.
        """
        sizes = even(samples, self.world)
        if self.rank >= len(sizes):
            return None
        start = sum(sizes[: self.rank])
        return range(start, start + sizes[self.rank])

    def cut(self, batch: Any, loader: Any) -> Any:
        """This rank's slice of a batch that has been read: views of its tensors.

        Args:
            batch: whatever the loader gave.
            loader: the loader, or its data set, for errors.

        Returns:
            The slice.

        Raises:
            DataError: it cannot be told where to cut.
        """

        def refuse(problem: str) -> DataError:
            return DataError(
                f"split: a batch of {describe(loader)} {problem}, so that it cannot be told which "
                "rows are this rank's. Give each rank a loader of its own rows."
            )

        samples = count_rows(batch, 0, refuse)
        rows = self.rows(samples)
        if rows is None:
            return EmptySlice()
        return take_rows(batch, samples, rows.start, len(rows), 0)


class Cut:
    """A loader whose batches are cut when they have been read.

    Args:
        loader: anything that can be iterated again and again.
        place: of the rank.
    """

    def __init__(self, loader: Iterable[Any], place: Place) -> None:
        self.split_of, self.place, self.num_replicas = loader, place, place.world

    def __len__(self) -> int:
        return len(self.split_of)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return map(self._own, self.split_of)

    def _own(self, batch: Any) -> Any:
        return self.place.cut(batch, self.split_of)


class Slice(NamedTuple):
    """What is read of a batch.

    Args:
        index: of the rank's own samples; that of the whole batch where it names no samples.
        seed: of what reading them draws; None where the whole batch is read and then cut, for
            which all ranks draw alike.
    """

    index: Any
    seed: int | None


class Slices:
    """What a sampler gives for each batch, as far as it is this rank's.

    An index names samples if it lists them; or if it has `samples`, how many they are, and
    `only(rows)`, the index of some of them.

    The sampler draws what it draws without this. The seed of a slice is taken from where torch's
    generator stands after it, and no number is drawn for that: so ranks agree about batches
    whatever each draws to read its own.

    Args:
        sampler: of the indices of whole batches.
        place: of the rank.
        samples: whether each index is a list of samples, which the loader collates.
        generator: of the loader; it tells passes apart, too, where it has one.
    """

    def __init__(
        self, sampler: Any, place: Place, samples: bool, generator: torch.Generator | None
    ) -> None:
        self.split_of, self.place, self.num_replicas = sampler, place, place.world
        self.samples, self.generator = samples, generator

    def __len__(self) -> int:
        return len(self.split_of)

    def __iter__(self) -> Iterator[Slice | EmptySlice]:
        return map(self._slice, self.split_of, count())  # the sampler begins here, as without this

    def _slice(self, index: Any, number: int) -> Slice | EmptySlice:
        if callable(getattr(index, "only", None)):
            rows = self.place.rows(index.samples)
            own = None if rows is None else index.only(rows)
        elif self.samples or _lists(index):
            indices = index if isinstance(index, Sequence | Tensor | np.ndarray) else [*index]
            rows = self.place.rows(len(indices))
            own = None if rows is None else indices[rows.start : rows.stop]
        else:
            return Slice(index, None)
        return EmptySlice() if rows is None else Slice(own, self._seed(number))

    def _seed(self, number: int) -> int:
        standing = [torch.default_generator, *([self.generator] if self.generator else [])]
        states = [g.get_state().cpu().numpy().tobytes().hex() for g in standing]
        return derive_seed("slice", *states, number, self.place.rank)


def _lists(index: Any) -> bool:
    """Whether an index that a data set is given as it is lists samples."""
    if isinstance(index, Tensor | np.ndarray):
        return index.ndim == 1
    return isinstance(index, list | range)


class OwnSamples(Dataset[Any]):
    """A data set of which slices are read and collated.

    Args:
        data: the data set.
        place: of the rank.
        collate_fn: of the loader.
        samples: whether it collates a list of samples, or converts what the data set gives.
    """

    def __init__(
        self, data: Any, place: Place, collate_fn: Callable[[Any], Any], samples: bool
    ) -> None:
        self.split_of, self.place = data, place
        self.collate_fn, self.samples = collate_fn, samples

    def __len__(self) -> int:
        return len(self.split_of)

    def __getitems__(self, index: Any) -> Any:
        """What is called for a list of samples."""
        return self[index]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, EmptySlice):
            return index
        if not isinstance(index, Slice):  # it is looked at, and not by its loader
            return self.split_of[index]
        if index.seed is None:
            return self.place.cut(self._read(index.index), self)
        generators = Generators()
        generators.foreign = True
        with generators:
            generators.seed(index.seed)
            return self._read(index.index)

    def _read(self, index: Any) -> Any:
        data = self.split_of
        if not self.samples:
            return self.collate_fn(data[index])
        several = getattr(data, "__getitems__", None)
        return self.collate_fn(several(index) if several else [data[i] for i in index])


def as_it_is(batch: Any) -> Any:
    """What `OwnSamples` gave has been collated."""
    return batch


class WorkerStart:
    """Begin a worker as without slices: it knows the data set, and has seeds of its own.

    Args:
        begin: the loader's `worker_init_fn`.
        rank: whose worker it is; None where all ranks draw alike.
    """

    def __init__(self, begin: Callable[[int], None] | None, rank: int | None) -> None:
        self.begin, self.rank = begin, rank

    def __call__(self, worker: int) -> None:
        info: Any = get_worker_info()
        object.__setattr__(info, "dataset", info.dataset.split_of)
        if self.rank is not None:
            seed = derive_seed("worker", info.seed, self.rank)
            object.__setattr__(info, "seed", seed)
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
        if self.begin is not None:
            self.begin(worker)

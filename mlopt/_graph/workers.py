"""`Workers`: persistent workers of data loaders that one way through a loader has for itself."""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from torch.utils.data import DataLoader

__all__ = ["Workers", "persistent"]


class Workers:
    """Persistent workers, which data loaders have for a block.

    A `DataLoader` that lets its workers stay keeps one iterator and hands it out to all, so who
    begins a pass ends that of another. In a block it keeps one that nobody else has; after it, the
    one that it had before.

    Workers that nobody needs any more are told to end. An iterator tells its own when it is
    collected, but in a circle of garbage its queues have closed before: each worker would be waited
    for, five seconds, in vain. So those in use are held from outside of whatever holds this.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[DataLoader, Any]] = []
        self._before: list[tuple[DataLoader, Any]] = []
        self._made: list[Any] = []  # iterators that have workers
        weakref.finalize(self, _end, self._made, os.getpid()).atexit = False  # torch does it there

    def lend(self, parts: Iterable[Any]) -> None:
        """From now on for these; who was among them before goes on with the same workers.

        Args:
            parts: of a loader; those matter that are data loaders whose workers stay.
        """
        known = {id(loader): iterator for loader, iterator in self._kept}
        self._keep([(part, known.get(id(part))) for part in parts if persistent(part)])

    def __deepcopy__(self, memo: dict[int, Any]) -> Workers:
        copied = Workers()  # which makes workers when it needs them
        copied._kept = [(copy.deepcopy(loader, memo), None) for loader, _ in self._kept]
        return copied

    @property
    def made(self) -> tuple[DataLoader, ...]:
        """Those that have workers now."""
        return tuple(loader for loader, iterator in self._kept if iterator is not None)

    def places(self, made: Sequence[DataLoader]) -> list[int]:
        """Which of them these are, by number."""
        return [i for i, (loader, _) in enumerate(self._kept) if any(loader is m for m in made)]

    def at(self, places: Sequence[int]) -> tuple[DataLoader, ...]:
        """The way back."""
        return tuple(self._kept[i][0] for i in places)

    def renew(self, made: Sequence[DataLoader]) -> None:
        """Have others made, for these may have died.

        It draws random numbers, as the pass did that made the first ones. Later passes did not, so
        theirs are made before such a pass is begun again.

        Args:
            made: those that had workers when the pass began.
        """
        self._keep(
            [
                (loader, loader._get_iterator() if any(loader is m for m in made) else None)
                for loader, _ in self._kept
            ]
        )

    def __enter__(self) -> None:
        self._before = [(loader, loader._iterator) for loader, _ in self._kept]
        for loader, iterator in self._kept:
            loader._iterator = iterator

    def __exit__(self, *exception: object) -> None:
        self._keep([(loader, loader._iterator) for loader, _ in self._kept])
        self.close()

    def close(self) -> None:
        """Put the others back, if an exception in the block's own end has kept it from that."""
        for loader, iterator in self._before:
            loader._iterator = iterator
        self._before = []

    def _keep(self, kept: list[tuple[DataLoader, Any]]) -> None:
        """Go on with these, and end what others have."""
        self._kept = kept
        made = [iterator for _, iterator in kept if iterator is not None]
        if made != self._made:
            others = [x for x in self._made if not any(x is iterator for iterator in made)]
            self._made[:] = made
            _end(others, os.getpid())


def _end(made: list[Any], process: int) -> None:
    """End the workers of these iterators, if this is the process whose they are."""
    if os.getpid() == process:
        for iterator in made:
            iterator._shutdown_workers()


def persistent(loader: Any) -> bool:
    """Whether something is a data loader whose workers stay from one pass to the next."""
    return isinstance(loader, DataLoader) and loader.persistent_workers and loader.num_workers > 0

"""`Stream`: one sequence of batches, shared by all who read it."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from .._errors import DataError
from .._replay import derive_seed, replay

__all__ = ["Feed", "Stream", "move"]

_streams: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()


class Stream:
    """The batches of one loader, pass after pass. Who shares a stream shares its batches.

    A plain loader given as `data=` is wrapped into the one stream of that object, so this class is
    needed only to name a stream (`run(epoch=stream)`) or to read one loader at two paces.

    Args:
        loader: anything that can be iterated again and again: a `DataLoader`, a list of batches.

    Raises:
        DataError: the loader is empty, or can be iterated only once.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        if not isinstance(loader, Iterable):
            raise DataError(f"data= takes a loader or a Stream, got {type(loader).__name__}.")
        if isinstance(loader, Iterator):
            raise DataError(
                f"data= was given an iterator ({type(loader).__name__}), which ends after one "
                "pass; give the loader itself."
            )
        try:
            self.length: int | None = len(loader)  # type: ignore[arg-type]
        except TypeError:
            self.length = None
        if self.length == 0:
            raise DataError(
                f"{_describe(loader)} has no batches: is the data set smaller than drop_last's "
                "batch?"
            )
        self.loader = loader
        self.passes = 0
        self._iterator: Iterator[Any] | None = None
        self._held: list[Any] = []
        self._drawn = 0

    @staticmethod
    def of(loader: Any) -> Stream:
        """The stream of this loader object: the same one for the same object."""
        if isinstance(loader, Stream):
            return loader
        known = _streams.get(id(loader))
        if known is None or known.loader is not loader:
            known = _streams[id(loader)] = Stream(loader)
        return known

    def draw(self, seed: int) -> Any:
        """The next batch; a new pass begins when the loader ends.

        Args:
            seed: of this draw: shuffling and in-process augmentation use it, and the global
                generators are left as they were.

        Returns:
            The batch as the loader gave it.

        Raises:
            DataError: a whole pass gave nothing.
        """
        with replay(seed):
            batch = self._held.pop() if self._held else self._next()
            self._drawn += 1
            if self._drawn == self.length:
                self._end_pass()
            elif self.length is None:  # look one ahead, else the end of a pass would show too late
                try:  # a loader's iterator may have no truth value: it is compared to None
                    self._held.append(next(iter(()) if self._iterator is None else self._iterator))
                except StopIteration:
                    self._end_pass()
        return batch

    def reset(self) -> None:
        """Begin a new pass with the next draw."""
        self._iterator, self._drawn, self.passes = None, 0, 0
        self._held.clear()

    def _next(self) -> Any:
        for _ in range(2):
            if self._iterator is None:
                self._iterator = iter(self.loader)
            try:
                return next(self._iterator)
            except StopIteration:
                self._end_pass()
        raise DataError(f"{_describe(self.loader)} gave no batch in a whole pass.")

    def _end_pass(self) -> None:
        if self._drawn:
            self.passes += 1
        self._iterator, self._drawn = None, 0

    def __repr__(self) -> str:
        return f"Stream({_describe(self.loader)})"


class Feed:
    """Batches for one engine's steps: drawn when first read, given back if a step is not taken.

    Args:
        streams: of the graph; each begins a new pass.
        seed: of the run, from which that of each draw is made.
        device: where batches are moved to.
    """

    def __init__(
        self,
        streams: Iterable[Stream],
        seed: int,
        device: torch.device | None,
    ) -> None:
        self.streams = tuple(streams)
        self.passes = dict.fromkeys(self.streams, 0)
        self._seed = seed
        self._place = {stream: i for i, stream in enumerate(self.streams)}
        self._device = device
        self._count = dict.fromkeys(self.streams, 0)
        self._waiting: dict[Stream, deque[tuple[Any, int]]] = {s: deque() for s in self.streams}
        self._taken: list[tuple[Stream, tuple[Any, int]]] = []
        for stream in self.streams:
            stream.reset()

    def __call__(self, stream: Stream) -> Any:
        """The stream's next batch."""
        waiting = self._waiting[stream]
        if not waiting:
            before = stream.passes
            place, count = self._place[stream], self._count[stream]
            seed = derive_seed(self._seed, "stream", place, count)
            batch = move(stream.draw(seed), self._device)
            self._count[stream] += 1
            waiting.append((batch, stream.passes - before))
        item = waiting.popleft()
        self._taken.append((stream, item))
        return item[0]

    def begin(self) -> None:
        """A step begins."""
        self._taken.clear()

    def give_back(self) -> None:
        """The step was not taken: the next one reads the same batches."""
        for stream, item in reversed(self._taken):
            self._waiting[stream].appendleft(item)
        self._taken.clear()

    def finish(self) -> None:
        """The step was taken: its batches are used, and passes that ended with them are counted."""
        for stream, (_, ended) in self._taken:
            self.passes[stream] += ended
        self._taken.clear()


def move(batch: Any, device: torch.device | None) -> Any:
    """A batch on another device: tensors in tuples, lists and dicts, and whatever has `.to`."""
    if device is None or batch is None or isinstance(batch, str | int | float):
        return batch
    if hasattr(batch, "to"):  # before tuples: a packed sequence is one
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {k: move(v, device) for k, v in batch.items()}
    if isinstance(batch, list | tuple):
        moved = [move(v, device) for v in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch


def _describe(loader: Any) -> str:
    data = getattr(loader, "dataset", None)
    inner = f" over {type(data).__name__}" if data is not None else ""
    return f"{type(loader).__name__}{inner}"

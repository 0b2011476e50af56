"""`Feed`: the batches of one engine, drawn when first read, and again if a step is not taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from .._errors import DataError
from .._replay import derive_seed, replay
from .stream import Stream, describe

__all__ = ["Feed", "move"]


class _Passes:
    """An engine's own passes through a loader, one after another, by the index of the batch.

    What goes wrong in the middle of a draw leaves the loader's iterator who knows where: the pass
    is then gone through again, to the same batch, with the seeds that it had.
    """

    def __init__(self, stream: Stream, seed: Callable[[int], int]) -> None:
        self.loader, self.length = stream.loader, stream.length
        self._seed = seed
        self._iterator: Iterator[Any] | None = None
        self._ahead: list[Any] = []
        self._starts = [0]  # of this pass, and of the one before
        self._next = 0  # the index of the batch that the iterator gives next; -1: unknown

    def draw(self, index: int) -> tuple[Any, int]:
        """The batch with this index, the one after the last, and how many passes ended with it."""
        if self._next != index:
            self._go_to(index)
        self._next = -1
        with replay(self._seed(index)):
            batch, ended = self._take(index)
        self._next = index + 1
        return batch, ended

    def _take(self, index: int) -> tuple[Any, int]:
        found, ended = self._advance(), 0
        if not found and index > self._starts[-1]:  # the pass was shorter than it said
            self._end(index)
            found, ended = self._advance(), 1
        if not found:
            raise DataError(f"{describe(self.loader)} gave no batch in a whole pass.")
        if self.length is None:  # look one ahead, else the end of a pass would show too late
            self._ahead = self._advance()
            last = not self._ahead
        else:
            last = index + 1 - self._starts[-1] == self.length
        if last:
            self._end(index + 1)
        return found[0], ended + last

    def _advance(self) -> list[Any]:
        """The next batch of the pass, in a list; an empty one at its end."""
        if self._ahead:
            ahead, self._ahead = self._ahead, []
            return ahead
        if self._iterator is None:
            self._iterator = iter(self.loader)
        try:
            return [next(self._iterator)]
        except StopIteration:
            return []

    def _end(self, index: int) -> None:
        """A pass has ended before the batch with this index."""
        self._iterator = None
        self._starts = [self._starts[-1], index]

    def _go_to(self, index: int) -> None:
        """Go through the pass again, up to the batch with this index."""
        start = max(s for s in self._starts if s <= index)
        self._iterator, self._ahead, self._starts = None, [], [start]
        for i in range(start, index):
            with replay(self._seed(i)):
                self._take(i)


class Feed:
    """Batches for one engine's steps: drawn when first read, given back if a step is not taken.

    Args:
        streams: of the graph.
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
        self._device = device
        self._sources = {
            stream: _Passes(stream, lambda i, place=place: derive_seed(seed, "stream", place, i))
            for place, stream in enumerate(self.streams)
        }
        # Batches that earlier steps used; those that wait; how many of these this step has read.
        self._used = dict.fromkeys(self.streams, 0)
        self._ready: dict[Stream, list[tuple[Any, int]]] = {s: [] for s in self.streams}
        self._read = dict.fromkeys(self.streams, 0)

    def __call__(self, stream: Stream) -> Any:
        """The stream's next batch."""
        ready, read = self._ready[stream], self._read[stream]
        if read == len(ready):
            batch, ended = self._sources[stream].draw(self._used[stream] + read)
            ready.append((move(batch, self._device), ended))
        self._read[stream] += 1
        return ready[read][0]

    def begin(self) -> None:
        """A step begins."""
        self._read = dict.fromkeys(self.streams, 0)

    def give_back(self) -> None:
        """The step was not taken: the next one reads the same batches."""
        self.begin()

    def finish(self) -> None:
        """The step was taken: its batches are used, and passes that ended with them are counted."""
        read = self._read
        used = {s: n + read[s] for s, n in self._used.items()}
        ended = {s: sum(n for _, n in ready[: read[s]]) for s, ready in self._ready.items()}
        passes = {s: n + ended[s] for s, n in self.passes.items()}
        ready = {s: waiting[read[s] :] for s, waiting in self._ready.items()}
        self.passes, self._used, self._ready = passes, used, ready
        self.begin()

    def keep(self, keep: Callable[..., None]) -> None:
        """Have remembered what `finish` changes.

        Args:
            keep: (object, names of attributes) -> remembers them.
        """
        keep(self, "passes", "_used", "_ready")


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

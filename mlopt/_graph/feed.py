"""`Feed`: the batches of one engine, drawn when first read, and again if a step is not taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from .._replay import derive_seed
from .lent import Lent
from .moving import move
from .passes import Passes
from .stream import Stream

__all__ = ["Feed"]


class Feed:
    """Batches for one engine's steps: drawn when first read, given back if a step is not taken.

    Where the end of a pass can be known no other way, the next batch is drawn when a step is over.

    Args:
        streams: of the graph.
        seed: of the run, from which that of each draw is made.
        device: where batches are moved to.

    Attributes:
        passes: how many of each stream have ended.
        read: how many batches of each stream have been read since `begin`.
        sources: the passes through each stream's loader.
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
        lenders: list[Lent] = []
        self.sources = {
            s: Passes(s.loader, lambda i, n=n: derive_seed(seed, "stream", n, i), lenders)
            for n, s in enumerate(self.streams)
        }
        # How many batches earlier steps used; those that wait, with the numbers of their passes;
        # how many of these this step has read.
        self._used = dict.fromkeys(self.streams, 0)
        self._ready: dict[Stream, list[tuple[Any, int]]] = {s: [] for s in self.streams}
        self.read = dict.fromkeys(self.streams, 0)

    def __call__(self, stream: Stream) -> Any:
        """The stream's next batch."""
        ready, read = self._ready[stream], self.read[stream]
        if read == len(ready):
            batch, number = self.sources[stream].draw(self._used[stream] + read)
            ready.append((move(batch, self._device), number))
        self.read[stream] += 1
        return ready[read][0]

    def begin(self) -> None:
        """A step begins."""
        self.read = dict.fromkeys(self.streams, 0)
        for stream, ready in self._ready.items():
            if ready and not self.sources[stream].stands(self._used[stream] + len(ready)):
                ready.clear()

    def give_back(self) -> None:
        """The step was not taken: the next one reads the same batches."""
        self.begin()

    def unsure(self) -> bool:
        """Whether `finish` has to draw batches."""
        return bool(self.streams) and any(
            self.read[s] == len(ready) > 0 and self.sources[s].unsure(self._used[s] + len(ready))
            for s, ready in self._ready.items()
        )

    def finish(self, read: dict[Stream, int]) -> None:
        """The step was taken: its batches are used, and passes that ended with them are counted.

        Args:
            read: how many of each stream: `self.read`, as it was before any other `finish`.
        """
        used = {s: n + read[s] for s, n in self._used.items()}
        ready = {s: waiting[read[s] :] for s, waiting in self._ready.items()}
        passes = dict(self.passes)
        for s in self.streams:
            if ready[s]:
                passes[s] = ready[s][0][1]
            elif read[s]:
                passes[s] = self.sources[s].passed(used[s], self._used[s])
        self.passes, self._used, self._ready = passes, used, ready
        self.read = dict.fromkeys(self.streams, 0)

    def save(self) -> list[dict[str, Any]]:
        """Where each stream stands, as it is saved: batches that wait are drawn again."""
        saved = []
        for stream, source in self.sources.items():
            used, waiting = self._used[stream], len(self._ready[stream])
            waiting = waiting if source.stands(used + waiting) else 0
            at = {"passes": self.passes[stream], "used": used, "waiting": waiting}
            saved.append({**at, **source.save(used)})
        return saved

    def differs(self, stream: Stream, saved: Mapping[str, Any]) -> str:
        """How a stream is not the one of which this was saved; empty if it may be that."""
        return self.sources[stream].differs(saved)

    def load(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Let each stand where those of another process did; or all as they are, if it raises."""
        ready: dict[Stream, list[tuple[Any, int]]] = {}
        found = dict(zip(self.streams, saved, strict=True))
        undo = [source.remember() for source in self.sources.values()]
        try:
            for stream, state in found.items():
                at = (state["used"], state["waiting"])
                waiting = self.sources[stream].load(state, *at)
                ready[stream] = [(move(batch, self._device), number) for batch, number in waiting]
        except BaseException:
            for put_back in undo:
                put_back()
            raise
        passes = {s: state["passes"] for s, state in found.items()}
        used = {s: state["used"] for s, state in found.items()}
        self.passes, self._used, self._ready = passes, used, ready
        self.read = dict.fromkeys(found, 0)

    def keep(self, keep: Callable[..., None]) -> None:
        """Have remembered what `finish` changes.

        Args:
            keep: (object, names of attributes) -> remembers them.
        """
        keep(self, "passes", "_used", "_ready")

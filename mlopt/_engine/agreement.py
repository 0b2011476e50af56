"""`Agreement`: the ranks of an engine do and hold the same, or it is said what differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .._containers.loaders import describe
from .._errors import GraphError, NonFiniteError, RankError
from .._evaluation.layouts import copy, copy_into
from .._evaluation.point import Evaluator
from .._graph.feed import Feed
from .._graph.graph import Graph
from .._graph.signal import Signal
from .._tensors import real, spread
from ..distributed.ranks import Ranks
from ..distributed.traffic import Traffic, purpose
from .reach import reach

__all__ = ["Agreement"]

#: Steps from one comparison of what the ranks hold to the next.
_EVERY = 100


class Agreement:
    """What the ranks of an engine agree on: at the start, before each step, and now and then.

    Args:
        ranks: of the engine; None where it is alone.
        graph: of the engine.
        evaluator: likewise.
        feed: likewise.
    """

    def __init__(self, ranks: Ranks | None, graph: Graph, evaluator: Evaluator, feed: Feed) -> None:
        self.ranks, self._graph = ranks, graph
        self._evaluator, self._feed = evaluator, feed
        self._started = False

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and shows what is for all of them."""
        return self.ranks is None or self.ranks.rank == 0

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return 1 if self.ranks is None else self.ranks.size

    @property
    def traffic(self) -> Traffic:
        """What has gone between the ranks."""
        return Traffic() if self.ranks is None else self.ranks.traffic

    @property
    def broken(self) -> bool:
        """Whether a rank has failed: what this one holds may be no state of a step of all."""
        return self.ranks is not None and self.ranks.lost

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that all ranks enter; the others are told what is raised in it.

        Raises:
            RankError: a rank has failed.
            NonFiniteError: as in the block; all ranks find that.
        """
        if self.ranks is None:
            yield
            return
        self.ranks.begin()
        try:
            yield
        except BaseException as error:
            self.tell(error)
            raise

    def tell(self, error: BaseException) -> None:
        """Let the other ranks know what ends the work of this one.

        Args:
            error: what was raised; of what is not finite, all ranks know.
        """
        if self.ranks is not None and not isinstance(error, NonFiniteError):
            self.ranks.tell(error)

    def start(self) -> None:
        """Once: the ranks hold the same, of which the values are the first rank's.

        Raises:
            GraphError: they hold other things.
        """
        if self.ranks is None or self._started:
            return
        self._compare_forms(self.ranks)
        with purpose("agreement"), torch.no_grad():
            for tensors in self._values().values():
                for t in tensors:
                    held = copy(t)
                    self.ranks.wait(self.ranks.hand_out(held))
                    copy_into(t, held)
        self._started = True
        self.compare("the states of its optimizers differ")

    def before_step(
        self, steps: int, epoch: int, stop: bool = False, signal: int = 0
    ) -> tuple[bool, int]:
        """The ranks are about to take the same step.

        Args:
            steps: that this rank has taken.
            epoch: that it is in.
            stop: whether it wants to stop.
            signal: that it was sent, or 0.

        Returns:
            Whether any rank wants to stop, and a signal that any was sent.

        Raises:
            RankError: they are not, or a rank has failed.
        """
        if self.ranks is None:
            return stop, signal
        with self.together():
            each = self.ranks.exchange(self.state(steps, epoch, stop, signal))
            self._check_counts(each)
        return any(e[0] for e in each), int(max(e[1] for e in each))

    def state(self, steps: int, epoch: int, stop: bool = False, signal: int = 0) -> list[float]:
        """What the ranks tell each other before a step; see `before_step`."""
        passes = [self._feed.passes[s] for s in self._feed.streams]
        return [stop, signal, steps, epoch, *passes]

    def look_over(self, steps: int) -> None:
        """Compare what the ranks hold, if it is time.

        Args:
            steps: that have been taken.

        Raises:
            RankError: they differ.
        """
        if self.ranks is not None and (steps == 1 or steps % _EVERY == 0):
            self.compare(
                "its ranks compute other numbers from the same: a function that draws random "
                "numbers of its own (not torch's default generator, which is seeded), that reads "
                "or writes something outside (a cache, a counter, a file), or that is not the same "
                "on all ranks; a signal that mixes samples and does not say combine=; or "
                "BatchNorm in a module that is no part of a variable"
            )

    def compare(self, cause: str) -> None:
        """Compare what the ranks hold.

        Args:
            cause: what is likely where they differ.

        Raises:
            RankError: they do; it names the first problem or signal of which they do.
        """
        if self.ranks is None:
            return
        found = {label: _sum_of(tensors) for label, tensors in self._held().items()}
        if not found:
            return
        device = next(iter(found.values())).device
        own = torch.stack([t.to(device) for t in found.values()])
        each = [torch.empty_like(own) for _ in range(self.ranks.size)]
        with purpose("checksum"):
            self.ranks.wait(self.ranks.line_up(each, own))
        self.ranks.reached(device)
        lists = [t.tolist() for t in each]
        for label, *sums in zip(found, *lists, strict=True):
            other = next((r for r, s in enumerate(sums) if s != sums[0]), None)
            if other is not None:
                raise RankError(
                    f"{label}: ranks 0 and {other} hold other values of what is the same on all; "
                    f"{cause}.",
                    rank=other,
                )

    def _values(self) -> dict[str, list[Tensor]]:
        """Parameters and buffers, by the problem or signal that they belong to."""
        labels, bindings = self._graph.labels, self._evaluator.bindings
        rows = spread() or ()  # each rank has its own
        found: dict[str, list[Tensor]] = {}
        for node in self._graph.nodes:
            sources: tuple[Any, ...] = (node,) if isinstance(node, Signal) else node.over  # type: ignore[attr-defined]
            tensors: list[Tensor] = []
            for source in sources:
                if not isinstance(source, Signal):
                    own = self._evaluator.parameters(source).items()
                    tensors += [t for name, t in own if (source, name) not in rows]
                if source in bindings:
                    tensors += [t for t in bindings[source].held() if t is not None]
            if tensors := [t for t in tensors if _is_plain(t)]:
                found[labels[node]] = tensors
        return found

    def _held(self) -> dict[str, list[Tensor]]:
        """Likewise, with the states of optimizers."""
        found = self._values()
        for problem in self._graph.problems:
            label = self._graph.labels[problem]
            if problem.optimizer is not None:
                states: Any = problem.optimizer.state
                if spread() is not None:
                    same = {id(t) for t in found.get(label, ())}
                    states = [own for p, own in states.items() if id(p) in same]
                state = reach(states, "", {}).tensors
                own = {id(t) for t in found.get(label, ())}
                new = [t for t in state if id(t) not in own and _is_plain(t)]
                found.setdefault(label, []).extend(new)
        return found

    def _compare_forms(self, ranks: Ranks) -> None:
        forms = {
            label: [(tuple(t.shape), str(t.dtype)) for t in tensors]
            for label, tensors in self._values().items()
        }
        streams = [describe(s.loader) for s in self._feed.streams]
        each = ranks.collect((list(self._graph.labels.values()), forms, streams))
        for rank, (labels, theirs, loaders) in enumerate(each):
            first = each[0]
            if labels != first[0]:
                what = f"the graph of {', '.join(labels)}, and rank 0 that of {', '.join(first[0])}"
            elif loaders != first[2]:
                what = f"{' and '.join(loaders)} to read, and rank 0 {' and '.join(first[2])}"
            else:
                other = [name for name in forms if theirs.get(name) != first[1].get(name)]
                if not other:
                    continue
                what = f"other parameters or buffers in {other[0]} than rank 0 (shapes or types)"
            raise GraphError(
                f"Engine: rank {rank} has {what}. All ranks make the same engine, in one program."
            )

    def _check_counts(self, each: Sequence[Sequence[float]]) -> None:
        steps, epoch = each[0][2], each[0][3]
        for rank, (_, _, taken, at, *passes) in enumerate(each):
            if taken != steps:
                raise RankError(
                    f"rank {rank} has taken {taken:g} steps, and rank 0 {steps:g}: all ranks take "
                    "every step together. Were they resumed from other checkpoints?",
                    rank=rank,
                )
            for stream, here, there in zip(self._feed.streams, passes, each[0][4:], strict=True):
                if here != there:
                    raise RankError(
                        f"rank {rank} has gone through {describe(stream.loader)} {here:g} times, "
                        f"and rank 0 {there:g} times: their passes have other numbers of batches. "
                        "Give all the same with mlopt.distributed.split(loader), or with a "
                        "DistributedSampler, or by drop_last=True.",
                        rank=rank,
                    )
            if at != epoch:
                raise RankError(
                    f"rank {rank} is in epoch {at:g}, and rank 0 in epoch {epoch:g}: count by the "
                    "same loader, run(epoch=).",
                    rank=rank,
                )


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_nested)


_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """A number that differs where one bit of some tensors does, but by chance; on their device."""
    total: Tensor | None = None
    for t in tensors:
        plain = real(t.detach())
        bits = plain.contiguous().view(_BITS[plain.element_size()]).sum(dtype=torch.int64)
        total = bits if total is None else total.to(bits.device) * 1_000_003 + bits
    return torch.zeros((), dtype=torch.int64) if total is None else total

"""`OnRanks`: nodes evaluated on several ranks, each of which has its own samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.parts import lined_up, taken_in_parts
from .._graph.signal import Signal, join, split
from .._tensors import Key, Tensors, continuous, spread
from ..distributed.presence import Presence
from ..distributed.ranks import Ranks
from ..distributed.shared_sums import Together, together
from ..distributed.spread import shard_of
from ..distributed.sums import Sums
from ..distributed.traffic import purpose
from ..hypergrad.derivatives import common_length
from .forms import Forms
from .here import Here
from .in_parts import InParts
from .joint import lone
from .loss import split_loss
from .made_together import made_together
from .over_ranks import Own
from .part_by_part import Evaluates, check_rows
from .part_means import Written
from .pieces import times
from .point import Point
from .shares import Share, Shares
from .taken_apart import put_together, take_apart
from .whole import Whole

__all__ = ["OnRanks"]


class OnRanks:
    """Evaluates the nodes of a graph on ranks, of which each has a part of every batch.

    An objective is the mean over ranks, weighted by what their samples count, or their sum, as over
    the parts of a batch; see `InParts`. What every rank would compute alike, each computes: nodes
    that have no batch, or take it whole. A batch that is taken whole is collected from all ranks.

    Values and derivatives are the same on all ranks, but for those of signals that have a row for
    each sample: of these a rank has its own rows.

    Args:
        graph: says which they are.
        ranks: that take the steps.
        parts: evaluates what a rank has, in parts.
        device: where it computes.
    """

    def __init__(self, graph: Graph, ranks: Ranks, parts: InParts, device: torch.device) -> None:
        self.ranks, self.parts, self._device = ranks, parts, device
        self.sums = Sums(ranks)
        self.presence = Presence(ranks)
        self.nodes = taken_in_parts(graph.nodes)
        self._labels = graph.labels
        self._lined = lined_up(graph.nodes, self.nodes)
        self._shares = Shares(self.sums, parts, device)
        self._forms = Forms(ranks)
        self._whole = Whole(self.sums, self._lined, device)
        self._alone: dict[Node, Together | None] = {}  # of which a part is evaluated alone
        self._last: dict[Node, Share] = {}
        self._own_values: dict[Node, list[Tensor]] = {}  # of objectives, in this step
        self._flags: list[Tensor] = []
        self._flagged = 0  # how often the presence had been asked at the last flag
        self.rows: dict[Any, tuple[int, ...]] = {}  # of signals that have rows, on each rank
        self.homes: Mapping[Node, Sequence[int]] = {}  # of nodes that some ranks alone evaluate

    def __call__(
        self,
        evaluator: Evaluates,
        node: Node,
        point: Point,
        *,
        owner: Iterable[Any] = (),
        keep: bool = False,
        twice: bool = False,
        start: Mapping[Any, list[Tensor]] | None = None,
        wide: bool = False,
    ) -> tuple[Any, Written]:
        """Evaluate a node: as `Evaluator`, whose arguments these are.

        Returns:
            What it gave on all ranks, and the buffers that it wrote.

        Raises:
            DataError: a batch cannot be split, or has no samples; or a rank has none of those that
                BatchNorm takes from all.
            GraphError: the value of a signal has no place for its samples; or BatchNorm takes those
                of all ranks, and they have several parts each.
        """
        owners = tuple(owner)
        how: dict[str, Any] = {"keep": keep, "twice": twice, "start": start, "wide": wide}
        if start is not None:
            self.sums.settle()
        share = self._share(node, point)
        if share is None:
            with together(None):
                return evaluator(node, self._all(node, point), owner=owners, **how)
        if node in self._alone:
            return self._one_part(evaluator, node, point, share, how), {}
        evaluation = self._together(evaluator, node, share)
        self._last[node] = share
        graph = torch.is_grad_enabled()
        at, found = take_apart(evaluator, node, point) if graph else (point, {})
        leaves = [lone(t, False) for t in found.values()]
        values, parts = put_together(at, list(found), leaves)
        signals = {s: join(value, parts[s]) for s, value in at.signals.items()}
        local = Point(values if graph else at.values, signals, at.batch, at.seed)
        local = self._cut(node, local)
        result, written = None, {}
        if share.parts:
            with together(evaluation):
                result, written = self.parts(
                    evaluator, node, local, owner=owners, first=share.first, **how
                )
        else:
            evaluator.count[node] += 1
        buffers = self._buffers(evaluator, owners, written, share)
        here = Here(node, share, found, leaves, evaluation, once=not (keep or twice))
        if isinstance(node, Signal):
            return self._signal(here, result), buffers
        return self._objective(here, result), buffers

    def _share(self, node: Node, point: Point) -> Share | None:
        """What this rank has of a batch; None where every rank computes alike."""
        return self._shares(node, point) if node in self.nodes else None

    def _all(self, node: Node, point: Point) -> Point:
        """A point with the samples of all ranks."""
        return self._whole(node, point, self.rows)

    def _cut(self, node: Node, point: Point) -> Point:
        """A point as this rank has it: its batch is that of this rank."""
        return point

    def _together(self, evaluator: Evaluates, node: Node, share: Share) -> Together | None:
        """The evaluation in which a node's share is computed."""
        return made_together(self.sums, self.parts.parts, evaluator, node, share)

    def _objective(self, here: Here, result: Any) -> Any:
        node, share = here.node, here.share
        value, metrics = (None, {}) if result is None else split_loss(result, node.name)
        form = self._forms.objective(node, value, metrics)
        if value is not None and node.combine != "sum":
            value = times(value, share.weight)
        total = form.zero(self._device) if value is None else value.detach().clone()
        if value is not None:
            self._own_values.setdefault(node, []).append(value.detach())
        metrics = form.weighed(metrics, share.weight, total)
        self.sums.later([total, *form.averaged(metrics)])
        if here.leaves:
            own = self._own(here, [value], [True])
            (total,) = own.attached([total], list(here.found.values()))
        return total, metrics

    def _signal(self, here: Here, result: Any) -> Any:
        node, share = here.node, here.share
        assert isinstance(node, Signal)
        lined = node in self._lined
        value = self._forms.signal(node, result, lined)
        parts = split(value, node.name)
        if lined:
            if result is not None and not callable(node.split):
                check_rows(node, parts, share.own)
            if share.rows is not None:
                self.rows[node] = share.rows
        elif node.combine == "mean" and result is not None:
            parts = {k: times(t, share.weight) for k, t in parts.items()}
        known = {k: t.detach() for k, t in parts.items()}
        if not lined:
            with purpose("signals"):
                known = dict(zip(known, self.sums.now([*known.values()]), strict=True))
        moving = [k for k, t in known.items() if continuous(t)]
        if here.leaves and moving:
            outputs = [parts[k] for k in moving] if result is not None else [None for _ in moving]
            own = self._own(here, outputs, [not lined] * len(moving))
            tensors = own.attached([known[k] for k in moving], list(here.found.values()))
            known.update(zip(moving, tensors, strict=True))
        return join(value, known)

    def _own(self, here: Here, outputs: Sequence[Tensor | None], whole: Sequence[bool]) -> Own:
        name = (self._labels[here.node],)
        rows = spread() or ()  # of which a derivative is added up where it arises
        everywhere = [k[0] not in self._lined and k not in rows for k in here.found]
        return Own(
            self.sums, self.presence, name, outputs, here.leaves, everywhere, whole,
            here.evaluation, here.once,
        )  # fmt: skip

    def _buffers(
        self, evaluator: Evaluates, owners: Sequence[Any], written: Written, share: Share
    ) -> Written:
        """The mean over ranks of what each has written; of whole numbers, the first rank's."""
        if not share.parts:
            held = evaluator.bindings
            written = {s: held[s].held() for s in owners if s in held and held[s].buffers}
        out: Written = {}
        for source, tensors in written.items():
            out[source] = [self._buffer(t, share) for t in tensors]
        self.sums.later([t for ts in out.values() for t in ts if self._is_added(t)])
        return out

    def _buffer(self, t: Any, share: Share) -> Any:
        if not self._is_added(t):
            return t
        if continuous(t):
            return times(t, share.weight) if share.parts else torch.zeros_like(t)
        return t.clone() if self.ranks.rank == share.giver else torch.zeros_like(t)

    def _is_added(self, t: Any) -> bool:
        """Whether a buffer comes of all ranks, and is not the same on each."""
        return isinstance(t, Tensor) and t.dtype is not torch.bool and not t.is_quantized

    # One part at a time.

    def one_by_one(self, node: Node) -> Callable[[], Iterator[AbstractContextManager[None]]] | None:
        """Blocks in which a problem's value is what one part of this rank adds to it.

        Args:
            node: the problem, evaluated at this batch before.

        Returns:
            () -> a block for each part; None where it is evaluated whole.
        """
        if node not in self._last:
            return None
        count = self._last[node].parts
        return lambda: (self._only(node, i) for i in range(count))

    @contextmanager
    def _only(self, node: Node, part: int) -> Iterator[None]:
        self._alone[node] = alone = self._alone_in(node)
        common = None if alone is None else alone.common
        try:
            with self.parts.only(node, part), together(alone), common_length(common):
                yield
        finally:
            self._alone.pop(node, None)

    def _alone_in(self, node: Node) -> Together | None:
        """The evaluation in which one part of each rank is computed."""
        return Together(self.sums)

    def _one_part(
        self, evaluator: Evaluates, node: Node, point: Point, share: Share, how: dict[str, Any]
    ) -> Any:
        with together(self._alone[node]):
            result, _ = self.parts(
                evaluator, node, self._cut(node, point), first=share.first, **how
            )
        value, metrics = split_loss(result, node.name)
        return value if node.combine == "sum" else times(value, share.weight), metrics

    def total(self, tensors: Tensors, like: Tensors) -> Tensors:
        """The sums over ranks of what each has computed by itself.

        Args:
            tensors: of this rank, by key.
            like: in their shapes, all that any rank may have.

        Returns:
            The sums, by those keys that any rank has.
        """
        there = self.presence(("total", len(like)), [k in tensors for k in like])
        keys = [k for k, on in zip(like, there, strict=True) if on]
        own = {k: tensors[k] if k in tensors else torch.zeros_like(like[k]) for k in keys}
        added = [k for k in keys if k not in (spread() or ())]  # of rows it has been already
        return own | dict(zip(added, self.sums.now([own[k] for k in added]), strict=True))

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block of derivatives of single evaluations, whose sums are taken at its end."""
        with self.sums.deferred():
            yield
        self.sums.arrive()

    def place(self, key: Key) -> tuple[int, int] | None:
        """Where the rows of a tensor begin that this rank has, and how many there are in all."""
        if (shard := shard_of(key)) is not None:
            return shard.start, shard.shape[0]
        rows = self.rows.get(key[0])
        return None if rows is None else (sum(rows[: self.ranks.rank]), sum(rows))

    # A step.

    def begin(self) -> None:
        """A step begins."""
        self.presence.begin()
        self.sums.begin()
        self._flags, self._flagged = [], 0

    def settle(self) -> None:
        """Values and metrics of this step become what they are over all ranks."""
        new = self.presence.asked > self._flagged
        if not (new or self.sums.waiting):
            return
        if new:
            self._flagged = self.presence.asked
            like = self.sums.first
            flag = torch.full((), float(self.presence.odd), dtype=like.dtype, device=like.device)
            self._flags.append(flag)
            self.sums.later([flag])
        self.sums.settle()

    def flags(self) -> list[Tensor]:
        """Of each time that accounts were settled, whether a rank has noted anything odd.

        Returns:
            Booleans on the device; it is waited for until all ranks have come so far.
        """
        self.settle()
        for device in {flag.device for flag in self._flags}:
            self.ranks.reached(device)
        return [flag != 0 for flag in self._flags]

    def spoilers(self, node: Node | None) -> list[int]:
        """The ranks that have spoilt a problem, for which all ask at once.

        Args:
            node: the problem; None where it is not known.

        Returns:
            Those where its own value is not finite; or else those that were the first to give
            something not finite to a sum over ranks. None where every rank has the same.
        """
        own = () if node is None else self._own_values.get(node, ())
        fine = all(bool(torch.isfinite(v).all()) for v in own)
        each = self.ranks.collect((fine, self.sums.first_spoilt()))
        if not all(well for well, _ in each):
            return [rank for rank, (well, _) in enumerate(each) if not well]
        first = min((at for _, at in each if at is not None), default=-1)
        found = [rank for rank, (_, at) in enumerate(each) if at == first]
        return found if len(found) < len(each) else []

    def release(self) -> None:
        """Let the batches of a step go."""
        self._own_values.clear()
        self.sums.forget()
        self._shares.forget()
        self._whole.forget()

"""`AtHome`: nodes evaluated on the ranks where they are at home, each on some of all.

    y = sum_r f_r(x),    f_r = 0 on ranks where y is not at home

Everything that is read, and every value, is the same on all ranks; so is every derivative. It is
computed where the node is at home, and travels as a sum, to which the others add nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .._containers.containers import rebuilt
from .._errors import DataError
from .._graph.graph import Graph
from .._graph.homes import Home
from .._graph.node import Node
from .._graph.signal import Signal, join, split
from .._tensors import Tensors, continuous
from ..distributed.ranks import Ranks
from ..distributed.shared_sums import Together
from ..distributed.traffic import purpose
from .here import Here
from .home_shares import HomeShares
from .in_parts import InParts
from .made_together import made_at_home
from .on_ranks import OnRanks
from .over_ranks import Own
from .part_by_part import Evaluates, check_rows
from .pieces import times
from .point import Point
from .shares import Share

__all__ = ["AtHome"]


class AtHome(OnRanks):
    """Evaluates the nodes of a graph on ranks, some of which some nodes are at home on.

    Loaders give every rank whole batches, of which those of a node's home take their slices. A node
    that takes its batch whole, or has none, is evaluated on the first rank of its home. One without
    a home is evaluated on all ranks, each of which has a slice, or computes what all do.

    Args:
        graph: says which nodes there are.
        ranks: that take the steps.
        parts: evaluates what a rank has, in parts.
        device: where it computes.
        homes: of the nodes that have one.
    """

    def __init__(
        self,
        graph: Graph,
        ranks: Ranks,
        parts: InParts,
        device: torch.device,
        homes: Mapping[Node, Home],
    ) -> None:
        super().__init__(graph, ranks, parts, device)
        # Who is said to live on all ranks is evaluated as who is not named.
        self.homes = {node: home for node, home in homes.items() if len(home) < ranks.size}
        self._at_home = HomeShares(ranks, parts, self._lined, self.nodes, self.homes)
        self._in_rows, self._lined = self._lined, frozenset()  # no rank has rows of its own
        self._waving = False
        self._open = _of_open_shape(graph, self.nodes)

    @contextmanager
    def wave(self) -> Iterator[None]:
        """A block of evaluations that do not read one another, whose values are there later.

        They are after the next `arrive` of the sums.
        """
        self._waving = True
        try:
            yield
        finally:
            self._waving = False

    def pulled(self, node: Node, wanted: Tensors, pull: Callable[[], Tensors]) -> Tensors:
        """What passes from a node to what it reads, computed where it is at home.

        On a rank alone all of it is computed there, and travels at the end: it is there after the
        next `arrive` of the sums.

        Args:
            node: the node.
            wanted: tensors like those that may come, by key.
            pull: computes them.

        Returns:
            Tensors by key.
        """
        home = self.homes.get(node)
        if home is None or len(home) > 1:
            return pull()
        found: Tensors = {}
        if here := self.ranks.rank == home[0]:
            with self._alone_here():
                found = pull()
        name = ("pulled", self._labels[node])
        there = self.presence(name, [k in found for k in wanted], here)
        keys = [k for k, on in zip(wanted, there, strict=True) if on]
        own = [found[k] if k in found else torch.zeros_like(wanted[k]) for k in keys]
        return dict(zip(keys, self.sums.soon(own), strict=True))

    @contextmanager
    def _alone_here(self) -> Iterator[None]:
        """A block of what this rank computes by itself: nothing in it comes of others."""
        self.sums.alone = self.presence.alone = True
        try:
            yield
        finally:
            self.sums.alone = self.presence.alone = False

    def _share(self, node: Node, point: Point) -> Share | None:
        return self._at_home(node, point)

    def _all(self, node: Node, point: Point) -> Point:
        return point

    def _cut(self, node: Node, point: Point) -> Point:
        return self._at_home.cut(node, point)

    def _together(self, evaluator: Evaluates, node: Node, share: Share) -> Together | None:
        home = self.homes.get(node)
        if home is None:
            return super()._together(evaluator, node, share)
        return made_at_home(self.sums, home, evaluator, node)

    def _alone_in(self, node: Node) -> Together | None:
        return None if node in self.homes else super()._alone_in(node)

    def _signal(self, here: Here, result: Any) -> Any:
        node, share = here.node, here.share
        assert isinstance(node, Signal)
        rows = node in self._in_rows
        value = self._forms.signal(node, result, rows, again=node in self._open)
        value = rebuilt(value, self._moved) if result is None else value
        parts = split(value, node.name)
        if rows:
            if result is not None and not callable(node.split):
                check_rows(node, parts, share.own)
            parts = {k: self._among_all(node, t, share) for k, t in parts.items()}
        elif result is not None:
            _check_form(node, parts, split(self._forms.like(node), node.name))
            if node.combine == "mean" and node in self.nodes:
                parts = {k: times(t, share.weight) for k, t in parts.items()}
        with purpose("signals"):
            sent = [t.detach() for t in parts.values()]
            sent = [t.to(torch.uint8) if t.dtype is torch.bool else t for t in sent]
            truths = any(t.dtype is torch.bool for t in parts.values())
            add_up = self.sums.soon if self._waving and not truths else self.sums.now
            totals = zip(parts.items(), add_up(sent), strict=True)
            known = {k: total.to(t.dtype) for (k, t), total in totals}
        moving = [k for k, t in known.items() if continuous(t)]
        if here.leaves and moving:
            outputs = [parts[k] for k in moving] if result is not None else [None for _ in moving]
            own = self._own(here, outputs, [True] * len(moving))
            tensors = own.attached([known[k] for k in moving], list(here.found.values()))
            known.update(zip(moving, tensors, strict=True))
        return join(value, known)

    def _is_added(self, t: Any) -> bool:
        return isinstance(t, Tensor) and not t.is_quantized

    def release(self) -> None:
        super().release()
        self._at_home.forget()

    def _moved(self, held: Any) -> Any:
        return held.to(self._device) if isinstance(held, Tensor) else held

    def _among_all(self, node: Node, t: Tensor, share: Share) -> Tensor:
        """A rank's rows in their places among those of the whole batch, which are zero else."""
        if share.rows is None:
            raise DataError(
                f"{node.name}: it cannot be told how many samples are in the parts that its "
                "split= makes, and so where its rows belong. Give it split=False, or let it live "
                "on one rank."
            )
        before = sum(share.rows[: self.ranks.rank])
        after = sum(share.rows) - before - t.shape[0]
        if not (before or after):
            return t
        shape = t.shape[1:]
        return torch.cat([t.new_zeros((before, *shape)), t, t.new_zeros((after, *shape))])

    def _own(self, here: Here, outputs: Sequence[Tensor | None], whole: Sequence[bool]) -> Own:
        agree = functools.partial(self.presence, computes=here.share.parts > 0)
        name = (self._labels[here.node],)
        everywhere = [True] * len(here.found)
        return Own(
            self.sums, agree, name, outputs, here.leaves, everywhere, whole, here.evaluation,
            here.once,
        )  # fmt: skip


def _of_open_shape(graph: Graph, in_parts: Collection[Node]) -> frozenset[Signal]:
    """The signals of whole batches, which may have another shape in every step."""
    found: set[Signal] = set()
    for node in graph.signals:
        reads = any(r.source in found for r in node.reads)
        if node not in in_parts and (node.streams or reads):
            found.add(node)
    return frozenset(found)


def _check_form(node: Node, parts: Mapping[str, Tensor], form: Mapping[str, Tensor]) -> None:
    """The ranks elsewhere have to know what comes."""
    now = {k: (tuple(t.shape), t.dtype) for k, t in parts.items()}
    if now != (then := {k: (tuple(t.shape), t.dtype) for k, t in form.items()}):
        raise DataError(
            f"{node.name}: its value is {_form(now)} in this step and was {_form(then)} before, "
            "which ranks that it does not live on cannot know. Give it split=False, or let all "
            "that reads it live where it does."
        )


def _form(parts: Mapping[str, Any]) -> str:
    return ", ".join(f"{dtype} of {shape}" for shape, dtype in parts.values())

"""`PartByPart`: one evaluation of a node, with the graph of one part of its batch at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from .._errors import GraphError
from .._graph.node import Node
from .._graph.signal import Signal, join, split
from .._replay import derive_seed
from .._tensors import Tensors, grad_mode
from .._variable import Variable
from ..hypergrad.derivatives import derivatives, uncounted
from .joint import Joint, Sum, attached, lone
from .loss import split_loss
from .part_means import Buffers, Written, kept, mean
from .pieces import Pieces, times
from .point import Point
from .taken_apart import put_together, take_apart

__all__ = ["Evaluates", "PartByPart", "check_rows", "no_rows", "part_seed"]


_APART = "they have no parts in common"


def part_seed(seed: int, part: int) -> int:
    """The seed of a part's evaluation: of the first it is that of the joined batch."""
    return derive_seed(seed, "part", part) if part else seed


class Evaluates(Protocol):
    """An evaluator, as far as it is needed here."""

    count: Any
    bindings: Mapping[Any, Any]

    def __call__(self, node: Node, point: Point, **how: Any) -> tuple[Any, Written]: ...

    def parameters(self, variable: Variable) -> dict[str, Tensor]: ...

    def bound(self, node: Node) -> list[Any]: ...


@dataclass
class PartByPart:
    """One evaluation of a node in parts: with the graph of one part at a time.

    Attributes:
        evaluator: of the graph.
        node: a problem or signal.
        point: where.
        pieces: of its batch.
        lined: the signals whose values have a row for each sample.
        start: buffers to begin with, where they are not those that the modules hold.
        wide: whether it is computed in float32 whatever the node's precision.
        twice: whether its value is differentiated twice. A part that is computed again is so, too:
            derivatives are those of the function that gave the value, to the bit.
        first: how many parts there are before these, on other ranks.
        keys: of the tensors that gradients go to.
    """

    evaluator: Evaluates
    node: Node
    point: Point
    pieces: Pieces
    lined: frozenset[Signal]
    start: Mapping[Any, list[Tensor]] | None
    wide: bool
    twice: bool
    first: int = 0
    keys: list[Any] = field(default_factory=list)

    def take_apart(self) -> list[Tensor]:
        """The tensors that gradients go to; the point holds none of them any longer."""
        self.point, found = take_apart(self.evaluator, self.node, self.point)
        self.keys = list(found)
        return list(found.values())

    def signal(self, tensors: Sequence[Tensor], owner: tuple[Any, ...]) -> tuple[Any, Written]:
        """The value of a signal."""
        node, first = self.node, None
        names: list[str] = []
        live: set[str] = set()
        total = Sum([])
        buffers = Buffers(self.node, self.pieces.weights)
        for i in range(len(self.pieces)):
            with grad_mode(bool(tensors)):
                value, wrote = self._evaluate(i, [lone(t, False) for t in tensors], owner)
            parts = self._parts(i, value)
            if first is None:
                first = join(value, {k: t.detach() for k, t in parts.items()})
                names = list(parts)
                total = Sum([self._lines() for _ in names])
            elif list(parts) != names:
                raise GraphError(
                    f"{node.name}: its value has the parts {names} in one part of the batch and "
                    f"{list(parts)} in another. Return the same ones, or give split=False."
                )
            live |= {k for k, t in parts.items() if t.requires_grad}
            total.add(list(parts.values()))
            buffers.add(wrote)
            del value, parts
        known = dict(zip(names, total.values(), strict=True))
        if moving := [k for k in names if k in live]:
            joint = Joint(
                len(self.pieces), self._signal_part(moving), [self._lines()] * len(moving)
            )
            found = attached(joint, [known[k] for k in moving], None, tensors)
            known.update(zip(moving, found, strict=True))
        return join(first, known), buffers.mean()  # type: ignore[arg-type]

    def objective(
        self, tensors: Sequence[Tensor], owner: tuple[Any, ...], graph: bool
    ) -> tuple[Any, Written]:
        """The value of an objective, and under grad mode its gradient, which costs no more so."""
        total, slopes = Sum([None]), Sum([None] * len(tensors))
        metrics: list[dict[str, Any]] = []
        buffers = Buffers(self.node, self.pieces.weights)
        live = False
        for i in range(len(self.pieces)):
            leaves = [lone(t, False) for t in tensors]
            with grad_mode(graph):
                result, wrote = self._evaluate(i, leaves, owner)
                value, more = split_loss(result, self.node.name)
                loss = self._weighed(i, value)
                found: Tensors = {}
                if loss.requires_grad:
                    live = True
                    by = dict(zip(self.keys, leaves, strict=True))
                    with uncounted():
                        found = derivatives([loss], by, sparse=True)
            slopes.add([found.get(k) for k in self.keys])
            total.add([loss])
            metrics.append(kept(more))
            buffers.add(wrote)
            del result, value, loss, more, leaves, found
        loss = total.values()[0]
        if live:
            joint = Joint(len(self.pieces), self._objective_part, [None])
            (loss,) = attached(joint, [loss], slopes.values(), tensors)
        return (loss, mean(metrics, self.pieces.weights)), buffers.mean()

    def alone(self, i: int, keep: bool) -> Any:
        """What one part adds to an objective, with its graph."""
        found, _ = self._evaluate(i, [], (), keep=keep)
        value, metrics = split_loss(found, self.node.name)
        return self._weighed(i, value), metrics

    def _objective_part(self, i: int, tensors: Sequence[Tensor], order: int) -> list[Tensor]:
        result, _ = self._again(i, tensors, order)
        return [self._weighed(i, split_loss(result, self.node.name)[0])]

    def _signal_part(self, names: Sequence[str]) -> Any:
        def part(i: int, tensors: Sequence[Tensor], order: int) -> list[Tensor]:
            value, _ = self._again(i, tensors, order)
            parts = self._parts(i, value)
            return [parts[k] for k in names]

        return part

    def _again(self, i: int, tensors: Sequence[Tensor], order: int) -> tuple[Any, Written]:
        with grad_mode(order > 0):
            return self._evaluate(i, tensors, (), order)

    def _evaluate(
        self,
        i: int,
        tensors: Sequence[Tensor],
        owner: tuple[Any, ...],
        order: int = 0,
        keep: bool = False,
    ) -> tuple[Any, Written]:
        """The evaluation of a part: all of them count as one."""
        twice = self.twice or order > 1
        how = {"owner": owner, "keep": keep, "twice": twice, "start": self.start, "wide": self.wide}
        found = self.evaluator(self.node, self._at(i, tensors), **how)
        if i:
            self.evaluator.count[self.node] -= 1
        return found

    def _at(self, i: int, tensors: Sequence[Tensor]) -> Point:
        """Where a part is evaluated."""
        values, parts = put_together(self.point, self.keys, tensors)
        for source in self.lined.intersection(parts):
            parts[source] = {
                k: self.pieces.rows(self.node, source, t, i, _APART)
                for k, t in parts[source].items()
            }
        signals = {s: join(value, parts[s]) for s, value in self.point.signals.items()}
        seed = part_seed(self.point.seed, self.first + i)
        return Point(values, signals, self.pieces.batches[i], seed)

    def _weighed(self, i: int, loss: Tensor) -> Tensor:
        """What a part adds to the objective."""
        return loss if self.node.combine == "sum" else times(loss, self.pieces.weights[i])

    def _lines(self) -> Sequence[int] | None:
        """The sizes of the pieces of a signal's value, if it is not summed."""
        return self.pieces.sizes if self.node.combine is None else None

    def _parts(self, i: int, value: Any) -> dict[str, Tensor]:
        """The tensors of a signal's value at a part, as they come together with the others."""
        parts = split(value, self.node.name)
        if self.node.combine == "sum":
            return parts
        if self.node.combine == "mean":
            return {k: times(t, self.pieces.weights[i]) for k, t in parts.items()}
        sizes = self.pieces.sizes
        check_rows(self.node, parts, None if sizes is None else sizes[i])
        return parts


def check_rows(node: Node, parts: Mapping[str, Tensor], samples: int | None) -> None:
    """Refuse the value of a signal that has not a row for each sample.

    Args:
        node: the signal.
        parts: of its value.
        samples: that it was computed of; None where that is not known.

    Raises:
        GraphError: it has not.
    """
    for name, t in parts.items():
        if samples is None or t.dim() == 0 or t.shape[0] != samples:
            raise GraphError(no_rows(node, name, t.shape, samples))


def no_rows(node: Node, name: str, shape: Sequence[int], samples: int | None) -> str:
    """That a signal's value has not a row for each sample, and what to do.

    Args:
        node: the signal.
        name: of the part of its value.
        shape: of it.
        samples: for how many; None where that is not known.

    Returns:
        The message.
    """
    which = f" (part {name!r})" if name else ""
    of = "a number of samples that split= leaves open" if samples is None else f"{samples} samples"
    return (
        f"{node.name}: under Engine(parts=) the value of a signal has a row for each sample, and "
        f"this one{which} has the shape {tuple(shape)} for {of}. If it is no value of samples, say "
        'how its parts come together, combine="sum" or combine="mean"; a mean per class is a sum '
        "and a count, which a second signal divides. Or give split=False, which takes the batch "
        "whole."
    )

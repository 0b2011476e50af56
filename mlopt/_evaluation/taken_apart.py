"""A point without the tensors that gradients go to, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.signal import Signal, join, split
from .._graph.trained import trainable
from .._tensors import Tensors
from .._variable import Variable
from .point import Point

__all__ = ["Named", "put_together", "take_apart"]


class Named(Protocol):
    """An evaluator, as far as it is needed here."""

    def parameters(self, variable: Variable) -> dict[str, Tensor]: ...


def take_apart(evaluator: Named, node: Node, point: Point) -> tuple[Point, Tensors]:
    """A point whose tensors are constants, and those that gradients go to.

    Args:
        evaluator: of the graph; it knows the modules' parameters.
        node: that is evaluated: a problem's own parameters are among the tensors.
        point: where.

    Returns:
        The point, and the tensors by key.
    """
    found: Tensors = {}
    values: dict[Variable, dict[str, Tensor]] = {}
    signals: dict[Signal, Any] = {}
    own = trainable(node, evaluator.parameters) if isinstance(node, Problem) else {}
    for source in (r.source for r in node.reads):
        if isinstance(source, Signal):
            value = point.signals[source]
            parts = split(value, source.name)
            signals[source] = join(value, {k: t.detach() for k, t in parts.items()})
        else:
            parts = {k: p for (v, k), p in own.items() if v is source}
            parts.update(point.values.get(source, {}))
            values[source] = {k: t.detach() for k, t in parts.items()}
        found.update({(source, k): t for k, t in parts.items() if t.requires_grad})
    return Point(values, signals, point.batch, point.seed), found


def put_together(
    point: Point, keys: Sequence[Any], tensors: Sequence[Tensor]
) -> tuple[dict[Variable, dict[str, Tensor]], dict[Signal, dict[str, Tensor]]]:
    """What is read at a point with other tensors in these places.

    Args:
        point: of `take_apart`.
        keys: of the tensors.
        tensors: one for each.

    Returns:
        The values of variables, and the parts of signals.
    """
    values = {source: dict(own) for source, own in point.values.items()}
    parts = {s: split(value, s.name) for s, value in point.signals.items()}
    for (source, name), t in zip(keys, tensors, strict=True):
        if isinstance(source, Signal):
            parts[source][name] = t
        else:
            values[source][name] = t
    return values, parts

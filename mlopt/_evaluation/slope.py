"""Is an objective's gradient the slope of its values? Products by differences take it to be."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from .._errors import CapabilityWarning
from .._graph.brief import brief
from .._graph.graph import Graph
from .._graph.problem import Problem
from .._graph.signal import Signal, join, split
from .._tensors import Tensors, add_scaled, grouped, norm, scale
from ..hypergrad.products import Differences
from .loss import split_loss
from .point import Evaluator, Point

__all__ = ["check_precision", "check_slope", "ratio"]

#: Lengths of the displacement, in the order in which they are tried.
_RADII = (1e-2, 1e-3)
#: How far from the gradient the slope may be, relative to it: on ReLU supernets it is within 0.005.
_FAR = 0.1


def check_precision(
    graph: Graph, problem: Problem, gradient: Tensors, narrow: torch.dtype | None
) -> None:
    """Warn once where a method's differences would be lost in rounding.

    Args:
        graph: the graph.
        problem: the problem.
        gradient: of its value, by key.
        narrow: a dtype of low precision that it computes in, if any.
    """
    product = _differences(graph, problem, gradient)
    if product is not None and narrow is not None:
        _say(
            graph, problem,
            f"it computes in {str(narrow).removeprefix('torch.')}, whose rounding is divided by "
            "the radius",
        )  # fmt: skip


def check_slope(
    graph: Graph,
    evaluator: Evaluator,
    problem: Problem,
    point: Point,
    leaves: Tensors,
    gradient: Tensors,
) -> None:
    """Warn once where a method's differences would not be those of the function that trains.

    Differences are taken in the problem's own variables. They are products with second derivatives
    if the gradient there is the derivative of a function: if the values change along it by its
    square. With a straight-through estimator, or a reversed gradient, they do not. What is bent in
    an argument is bent in the same way in both.

    Args:
        graph: the graph.
        evaluator: of the graph.
        problem: the problem.
        point: where it is evaluated.
        leaves: all that it reads, by key.
        gradient: of its value there, by key.
    """
    if _differences(graph, problem, gradient) is None:
        return
    own = {k: g for k, g in gradient.items() if k[0] in problem.over}

    def value(moved: Tensors) -> Tensor:
        # An objective may take gradients inside: a penalty on them.
        leaves = {k: t.requires_grad_() for k, t in moved.items()}
        with torch.enable_grad():
            result, _ = evaluator(problem, _at(point, leaves))
        return split_loss(result, problem.name)[0].detach()

    found = ratio(value, {k: leaves[k].detach() for k in own}, own)
    if found is not None:
        _say(
            graph, problem,
            f"along its own gradient its value changes by {found:.2g} times what the gradient "
            "says: a straight-through estimator, a reversed gradient, or another backward of its "
            "own",
        )  # fmt: skip


def _differences(graph: Graph, problem: Problem, gradient: Tensors) -> Differences | None:
    product = getattr(graph.methods[problem], "product", None)
    if not isinstance(product, Differences) or any(g.is_meta for g in gradient.values()):
        return None
    return product


def ratio(value: Callable[[Tensors], Tensor], point: Tensors, gradient: Tensors) -> float | None:
    """Slope of values along a gradient over its length, where both differ by more than rounding.

    Args:
        value: a scalar function of tensors.
        point: where.
        gradient: what is said to be its gradient there; no key that the point lacks.

    Returns:
        The ratio; None where they agree at a radius, or nothing can be told.
    """
    length = float(norm(gradient, wide=True))
    if not (math.isfinite(length) and length > 0):
        return None
    along = scale(gradient, 1 / length)
    found = None
    for radius in _RADII:
        values = [value(add_scaled(point, along, side)) for side in (radius, -radius)]
        plus, minus = (float(v) for v in values)
        slope = (plus - minus) / (2 * radius)
        # Some roundings in each value, of which none cancel.
        noise = 16 * torch.finfo(values[0].dtype).eps * max(abs(plus), abs(minus)) / radius
        if noise > _FAR * length:
            continue
        if not abs(slope - length) > _FAR * length + noise:  # NaN too
            return None
        found = slope / length
    return found


def _at(point: Point, moved: Tensors) -> Point:
    values, signals = dict(point.values), dict(point.signals)
    for source, tensors in grouped(moved).items():
        if isinstance(source, Signal):
            parts = split(signals[source], source.name)
            signals[source] = join(signals[source], {**parts, **tensors})
        else:
            values[source] = {**values[source], **tensors}
    return Point(values, signals, point.batch, point.seed)


def _say(graph: Graph, problem: Problem, reason: str) -> None:
    method = graph.methods[problem]
    warnings.warn(
        f"{graph.labels[problem]}: {brief(method)} takes differences of its gradients, and "
        f"{reason}. The hypergradient may be far off. Give its method product=Exact(), or "
        "see with mlopt.audit what it amounts to.",
        CapabilityWarning,
        stacklevel=2,
    )

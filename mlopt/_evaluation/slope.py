"""Is an objective's gradient the slope of its values? Products by differences take it to be."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from .._errors import CapabilityWarning
from .._graph.brief import brief
from .._graph.graph import Graph
from .._graph.problem import Problem
from .._graph.signal import Signal, join, split
from .._tensors import Tensors, add_scaled, grouped, norm, real, scale, spread
from .._tensors import dot as products
from ..hypergrad.products import Differences
from .loss import split_loss
from .point import Evaluator, Point
from .precision import name_of

__all__ = [
    "FAR",
    "check_precision",
    "check_slope",
    "differences",
    "dot",
    "first_radius",
    "moved",
    "off",
    "radii",
    "ratio",
    "say",
]

#: Lengths of the displacement, in the order in which they are tried.
_RADII = (1e-2, 1e-3)
#: Tensors whose gradient is below so much of the largest one are not looked at by themselves.
_SMALL = 0.01
#: How far from the gradient the slope may be, relative to it: on ReLU supernets it is within 0.005.
FAR = 0.1


def check_precision(
    graph: Graph,
    problem: Problem,
    leaves: Tensors,
    gradient: Tensors,
    moving: Collection[Any],
    narrow: Mapping[str, torch.dtype],
) -> bool:
    """Warn once where a method's differences would be lost in rounding.

    Numbers of size s are rounded by eps s, and a difference divides that by the radius: of weights
    as long as |w|, and of gradients that change over a length of about one.

    Args:
        graph: the graph.
        problem: the problem.
        leaves: all that it reads, by key.
        gradient: of its value, by key.
        moving: the sources that are displaced: its own variables, and what follows them in nested
            levels.
        narrow: dtypes of low precision that it computes in, or what follows, by label.

    Returns:
        Whether it has warned.
    """
    product = differences(graph, problem, gradient)
    if product is None:
        return False
    for label, dtype in narrow.items():
        it = "it" if label == graph.labels[problem] else f"{label}, which follows it,"
        say(
            graph, problem,
            f"{it} computes in {name_of(dtype)}, whose rounding is divided by the radius",
        )  # fmt: skip
        return True
    own = {k: t.detach() for k, t in leaves.items() if k[0] in moving}
    radius = getattr(product, "radius", math.inf)
    for dtype in {t.dtype for t in own.values()}:
        size = max(float(norm({k: t for k, t in own.items() if t.dtype == dtype}, wide=True)), 1.0)
        eps = torch.finfo(dtype).eps
        if eps * size > FAR * radius:
            say(
                graph, problem,
                f"its radius {radius:.0e} is lost in the rounding of {name_of(dtype)}, with "
                f"weights of length {size:.1e}: take about {eps ** (1 / 3) * size:.0e}",
            )  # fmt: skip
            return True
    return False


def check_slope(
    graph: Graph,
    evaluator: Evaluator,
    problem: Problem,
    point: Point,
    leaves: Tensors,
    gradient: Tensors,
    moving: Collection[Any],
) -> bool:
    """Warn once where a method's differences would not be those of the function that trains.

    Differences are taken in the problem's own variables, and in what follows them. They are
    products with second derivatives if the gradient there is the derivative of a function: if the
    values change along it by its square. With a straight-through estimator, or a reversed gradient,
    they do not. What is bent in an argument is bent in the same way in both.

    Args:
        graph: the graph.
        evaluator: of the graph.
        problem: the problem.
        point: where it is evaluated.
        leaves: all that it reads, by key.
        gradient: of its value there, by key.
        moving: the sources that are displaced: its own variables, and what follows them in nested
            levels.

    Returns:
        Whether it has warned.
    """
    product = differences(graph, problem, gradient)
    if product is None:
        return False
    own = {k: g for k, g in gradient.items() if k[0] in moving}

    def value(there: Tensors) -> Tensor:
        with torch.enable_grad():  # as in the differences: a function may look at it
            result, _ = evaluator(problem, moved(point, there))
        return split_loss(result, problem.name)[0].detach()

    found = off(value, {k: leaves[k].detach() for k in own}, own, first_radius(product))
    if found is not None:
        say(
            graph, problem,
            f"along its own gradient its value changes by {found:.2g} times what the gradient "
            "says: a straight-through estimator, a reversed gradient, or another backward of "
            "its own",
        )  # fmt: skip
    return found is not None


def off(
    value: Callable[[Tensors], Tensor], point: Tensors, gradient: Tensors, first: float
) -> float | None:
    """The slope of values over that of their gradient, where they differ; see `ratio`.

    Args:
        value: a scalar function of tensors.
        point: where.
        gradient: what is said to be its gradient there; no key that the point lacks.
        first: the first radius.

    Returns:
        The ratio, along the gradient or where all large tensors of it have an equal say; None where
        they agree.
    """
    found = ratio(value, point, gradient, gradient, first)
    return ratio(value, point, gradient, _levelled(gradient), first) if found is None else found


def differences(graph: Graph, problem: Problem, gradient: Tensors) -> Differences | None:
    """The product of a problem's method, if it is one by differences of numbers."""
    product = getattr(graph.methods[problem], "product", None)
    if not isinstance(product, Differences) or any(g.is_meta for g in gradient.values()):
        return None
    return product


def _levelled(gradient: Tensors) -> Tensors:
    """A direction in which all tensors with a large gradient have an equal say."""
    lengths = {k: float(norm({k: g}, wide=True)) for k, g in gradient.items()}
    large = _SMALL * max(lengths.values(), default=0.0)
    keys = [k for k, length in lengths.items() if length > 0 and length >= large]
    return {k: gradient[k] / lengths[k] / lengths[k] for k in keys} if len(keys) > 1 else {}


def first_radius(product: Differences) -> float:
    """The first radius that is tried: no larger than the product's own."""
    return min(getattr(product, "radius", _RADII[0]), _RADII[0])


def radii(first: float) -> list[float]:
    """Lengths of a displacement, in the order in which they are tried."""
    return list(dict.fromkeys((first, first / 10, *_RADII)))


def ratio(
    value: Callable[[Tensors], Tensor],
    point: Tensors,
    gradient: Tensors,
    direction: Tensors | None = None,
    first: float = _RADII[0],
) -> float | None:
    """Slope of values over that of their gradient, where both differ by more than rounding.

    Of two radii that rounding allows, one has to agree: a kink may lie within the other.

    Args:
        value: a scalar function of tensors.
        point: where.
        gradient: what is said to be its gradient there; no key that the point lacks.
        direction: along which; by default that of the gradient.
        first: the first radius. No larger than a product's, whose differences may see steps in the
            values, as of quantised ones, that larger ones do not.

    Returns:
        The ratio; None where they agree at a radius, or nothing can be told.
    """
    direction = gradient if direction is None else direction
    size = float(norm(direction, wide=True))
    if not (math.isfinite(size) and size > 0):
        return None
    along = scale(direction, 1 / size)
    base = {k: point[k] for k in along}
    length = dot(gradient, along)
    found, tried = None, 0
    for radius in radii(first):
        values = [value(add_scaled(base, along, side)) for side in (radius, -radius)]
        plus, minus = (float(v) for v in values)
        slope = (plus - minus) / (2 * radius)
        # Some roundings in each value, of which none cancel.
        noise = 16 * torch.finfo(values[0].dtype).eps * max(abs(plus), abs(minus)) / radius
        if noise > FAR * length:
            continue
        if not abs(slope - length) > FAR * length + noise:  # NaN too
            return None
        found, tried = slope / length, tried + 1
        if tried == 2:
            break
    return found


def moved(point: Point, there: Tensors) -> Point:
    """A point with some of its tensors exchanged."""
    values, signals = dict(point.values), dict(point.signals)
    for source, tensors in grouped(there).items():
        if isinstance(source, Signal):
            parts = split(signals[source], source.name)
            signals[source] = join(signals[source], {**parts, **tensors})
        else:
            values[source] = {**values[source], **tensors}
    return Point(values, signals, point.batch, point.seed)


def say(graph: Graph, problem: Problem, reason: str) -> None:
    """Warn of a problem's differences."""
    method = graph.methods[problem]
    warnings.warn(
        f"{graph.labels[problem]}: {brief(method)} takes differences of its gradients, and "
        f"{reason}. The hypergradient may be far off. Give its method product=Exact(), or "
        "see with mlopt.audit what it amounts to.",
        CapabilityWarning,
        stacklevel=2,
    )


def dot(a: Tensors, b: Tensors) -> float:
    """The sum of the products of two sides' numbers, by the keys that both have."""
    both = [k for k in a if k in b]
    if spread() is not None:
        sides = ({k: real(t[k].detach()) for k in both} for t in (a, b))
        return float(products(*sides))
    return sum(float((real(a[k].detach()) * real(b[k].detach())).sum()) for k in both)

"""(ds/dr)^T c for one lower problem, without its method's pullback."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._evaluation.autograd_graph import has_dead_end
from .._graph.problem import Problem
from .._graph.signal import Signal, split
from .._tensors import Key, Tensors, dense
from ..hypergrad import Implicit
from .differences import Slope, differentiate
from .optima import NoOracle, inverse
from .solutions import solution, unwrapped
from .study import Study
from .values import Frame, Values
from .vectors import directions, displaced, flat

__all__ = ["by_autograd", "by_differences", "part", "parts", "reading_frame"]


def reading_frame(values: Values, lower: Problem, upper: Problem) -> Frame:
    """What the lower problem's reader sees, at the standing values; optima where they stand."""
    graph, depends = values.graph, values.depends
    values.begin(settles=False)
    frame = Frame(values, upper, values.standing(upper))
    for p in depends.chain(lower, upper)[1:]:
        frame = frame.below(p, values.standing(p))
    for source in graph.cuts(lower):
        frame.found[source] = frame.value(source)
    values.settles = True  # from the lowest up: the lower ones' targets are known by then
    for p in graph.problems[: graph.problems.index(upper)]:
        if isinstance(unwrapped(graph.methods[p]), Implicit) and depends.moving(p):
            w, g, _ = values.slope(p, values.standing(p), frame if p is lower else None, 0)
            values.targets[p] = flat(g, w).detach()
    return frame


def part(frame: Frame, key: Key) -> Tensor:
    """One tensor of what a frame reads."""
    source: Any
    source, name = key
    value = frame.value(source)
    return (split(value, source.name) if isinstance(source, Signal) else value)[name].detach()


def parts(values: Values, frame: Frame, source: Any) -> list[Key]:
    """Of all tensors of a source that gradients may be taken by."""
    if isinstance(source, Signal):
        return [(source, name) for name in split(frame.value(source), source.name)]
    return [(source, name) for name in values.constants(source)]


def by_autograd(
    study: Study,
    values: Values,
    lower: Problem,
    frame: Frame,
    point: Tensors,
    cotangents: list[Tensors],
) -> list[Tensors]:
    """Through the solution's definition; for `Implicit`, through a solve with its Hessian.

    Args:
        study: the audit.
        values: of the graph.
        lower: whose solution s is.
        frame: of its reader.
        point: r, by key.
        cotangents: each c.

    Returns:
        For each c, tensors by key of r.

    Raises:
        NoOracle: the solution cannot be differentiated.
    """
    leaves = {k: t.detach().requires_grad_() for k, t in point.items()}
    moved = frame.pinned(leaves)
    method = unwrapped(study.graph.methods[lower])
    if isinstance(method, Implicit):
        w, g, _ = values.slope(lower, values.standing(lower), moved, 1)
        solve = inverse(w, g, lower.name, study.dense_limit, method.damping)
        output, ends = flat(g, w), [-solve(flat(c, w)) for c in cotangents]
    else:
        s = solution(values, lower, moved, 1)
        output, ends = flat(s, s), [flat(c, s) for c in cotangents]
    if not output.requires_grad:
        return [{} for _ in ends]
    if has_dead_end(output):
        raise NoOracle("an operation in it cannot be differentiated twice")
    out: list[Tensors] = []
    for c in ends:
        found = torch.autograd.grad(
            output, list(leaves.values()), c, retain_graph=True, allow_unused=True
        )
        out.append(dense({k: g for k, g in zip(leaves, found, strict=True) if g is not None}))
    return out


def by_differences(
    study: Study,
    values: Values,
    lower: Problem,
    frame: Frame,
    point: Tensors,
    cotangent: Tensors,
    count: int,
    seed: int,
) -> list[tuple[Tensor, Slope]]:
    """(d, slope of < c, s(r + h d) > by h) for random directions d.

    Args:
        study: the audit.
        values: of the graph.
        lower: whose solution s is.
        frame: of its reader.
        point: r, by key, of one source.
        cotangent: c.
        count: of directions.
        seed: of the directions.

    Returns:
        Each direction, flat, and the slope.

    Raises:
        NoOracle: there is no solution to take differences of.
    """
    if getattr(unwrapped(study.graph.methods[lower]), "damping", 0.0):
        raise NoOracle("a damped system belongs to no solution")
    values.remember()

    def along(d: Tensors, h: float) -> float:
        s = solution(values, lower, frame.pinned(displaced(point, d, h)), 0)
        study.evaluator.release()
        return float((flat(s, s) * flat(cotangent, s)).sum())

    out = []
    for d in directions(point, count, seed):
        along(d, 0.0)  # what is held is held from the standing point
        out.append((flat(d, point), differentiate(study.double, lambda h, d=d: along(d, h))))
    return out

"""What functions read without letting a gradient through, against what they are given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._evaluation.loss import split_loss
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.signal import Signal, split
from .._tensors import Key, Tensors, dense
from .differences import differentiate
from .kinks import made_by_kinks
from .reference import part
from .study import Study
from .values import Frame, Values
from .vectors import directions, displaced, flat

__all__ = ["detached_reads"]

_OFF = 1e-3  # of the slope of a value, by which autograd and differences may differ


def detached_reads(study: Study, values: Values, problem: Problem) -> list[str]:
    """Compare the slope of each function by each source with differences of its value.

        < d value / d source , d >    against    [value(source + h d) - value(source - h d)] / 2h

    Args:
        study: remembers what has been compared.
        values: of the graph, at the problem's batches.
        problem: whose lower nodes are looked at, itself among them.

    Returns:
        A text for each source that a function reads past autograd.
    """
    texts: list[str] = []
    values.begin(settles=False)
    frame = Frame(values, problem, values.standing(problem))
    for node in values.depends.reached(problem):
        if node in study.read or values.graph.rank[node] > values.graph.rank[problem]:
            continue
        study.read.add(node)
        inner = frame
        if isinstance(node, Problem) and node is not problem:
            inner = frame.below(node, values.standing(node))
        for read in node.reads:
            inner.value(read.source)  # what is solved for does not follow a displacement of others
        for source in (r.source for r in node.reads if not r.stopped):
            if how := _hidden(study, values, node, inner, source):
                study.detaching.add(node)
                texts.append(
                    f"{study.graph.labels[node]} reads {source.name} {how} (detach, no_grad, "
                    ".data, item, a backward of its own): its value changes with it, and the "
                    "hypergradient through it is missed. Where that is meant, give it "
                    f"stop({source.name})."
                )
    return texts


def _hidden(study: Study, values: Values, node: Node, frame: Frame, source: Any) -> str:
    """How a function reads a source past autograd; empty if it does not."""
    keys = _keys(values, frame, source)
    point = {k: t for k in keys if (t := part(frame, k)).is_floating_point()}
    if not point:
        return ""
    # Beside the standing point, where a slope may be zero by chance: what pulls w to a, at w = a.
    (aside,) = directions(point, 1, study.seed + 1)
    point = displaced(point, aside, 1e-2)
    leaves = {k: t.detach().requires_grad_() for k, t in point.items()}

    def value(tensors: Tensors) -> Tensor:
        result = values.evaluate(node, frame.pinned(tensors))[0]
        if isinstance(node, Problem):
            return split_loss(result, node.name)[0]
        parts = [t for t in split(result, node.name).values() if t.is_floating_point()]
        return torch.stack([t.sum() for t in parts]).sum() if parts else torch.zeros(())

    with torch.enable_grad():
        total = value(leaves)
    if made_by_kinks(total):
        return ""
    found: Any = (None,) * len(leaves)
    if total.requires_grad:
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    slopes = dense({k: g for k, g in zip(leaves, found, strict=True) if g is not None})
    (d,) = directions(point, 1, study.seed)

    def along(h: float) -> float:
        out = float(value(displaced(point, d, h)).detach())
        study.evaluator.release()
        return out

    slope = differentiate(study.double, along)
    off = abs(float((flat(slopes, point) * flat(d, point)).sum()) - slope.value)
    if not off > _OFF * (abs(slope.value) + slope.floor) + 2 * slope.unsure:  # NaN too
        return ""
    return "in part without gradient" if slopes else "without gradient"


def _keys(values: Values, frame: Frame, source: Any) -> list[Key]:
    """Of the tensors of a source that gradients are taken by."""
    if isinstance(source, Signal):
        return [(source, name) for name in split(frame.value(source), source.name)]
    return [(source, name) for name in values.constants(source)]

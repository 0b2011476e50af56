"""Second derivatives of objectives by double backward, against differences of their gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import exhausted
from .._evaluation.capability import instead
from .._evaluation.ways import custom_functions
from .._graph.problem import Problem
from .._graph.signal import Signal
from .._tensors import Tensors, dense
from .differences import differentiate
from .kinks import made_by_kinks
from .study import Study
from .values import Frame, Values
from .vectors import directions, displaced, flat

__all__ = ["compare_second"]


def compare_second(study: Study, values: Values, lower: Problem, upper: Problem) -> None:
    """Compare second derivatives, of a method or an oracle, with differences of first ones.

        < c , d2F / dw dp  d >    against    < c , dF/dw(p + h d) - dF/dw(p - h d) > / 2h

    with p the variables that the problem reads, its own among them, and random c and d.

    Args:
        study: takes the cause, if the method takes them; remembers what has been compared.
        values: of the graph, at the upper problem's batches.
        lower: the problem.
        upper: the problem in which it is looked at.
    """
    if lower in study.twice or lower in study.bent or study.is_half(lower):
        return
    study.twice.add(lower)
    values.begin(settles=False)
    frame = Frame(values, upper, values.standing(upper)).below(lower, values.standing(lower))
    own = values.standing(lower)
    point: Tensors = dict(own)
    for read in lower.reads:
        value = frame.value(read.source)  # what is solved for follows no displacement of others
        if not (read.stopped or isinstance(read.source, Signal) or read.source in lower.over):
            point.update({(read.source, name): t.detach() for name, t in value.items()})
    (c,), (d,) = directions(own, 1, study.seed + 2), directions(point, 1, study.seed + 3)
    leaves = {k: t.detach().requires_grad_() for k, t in point.items()}
    loss = values.objective(frame.pinned(leaves))[0]
    if made_by_kinks(loss):
        return
    said = float((flat(_by_double_backward(loss, leaves, c), point) * flat(d, point)).sum())

    def moved(h: float) -> float:
        there = {k: t.requires_grad_() for k, t in displaced(point, d, h).items()}
        out = _along(values.objective(frame.pinned(there))[0], there, c)
        study.evaluator.release()
        return float(out.detach())

    slope = differentiate(study.double, moved)
    if not abs(said - slope.value) > slope.blur(abs(slope.value)) + 2 * slope.unsure:
        return
    study.shallow.add(lower)
    method = study.graph.methods[lower]
    if method.cost.keeps_graph or method.traced:
        study.bent.add(lower)
        functions = custom_functions(loss)
        by = f" {' and '.join(functions)} has a backward of its own." if functions else ""
        study.cause(
            "derivatives", lower,
            f"{study.graph.labels[lower]}: its gradient cannot be differentiated as it stands: "
            f"double backward says {said:.3g} where differences of the gradient are "
            f"{slope.value:.3g}.{by} What is differentiated twice needs a backward of "
            "differentiable operations on saved tensors (no detach, no torch.autograd.grad without "
            f"create_graph). Mend it. Or: {instead(study.graph, lower)}",
        )  # fmt: skip


def _by_double_backward(loss: Tensor, leaves: Tensors, c: Tensors) -> Tensors:
    first = _along(loss, leaves, c)
    if not first.requires_grad:
        return {}
    try:
        by = torch.autograd.grad(first, list(leaves.values()), allow_unused=True)
    except RuntimeError as error:  # marked as once differentiable
        if exhausted(error):
            raise
        return {}
    return dense({k: g for k, g in zip(leaves, by, strict=True) if g is not None})


def _along(loss: Tensor, leaves: Tensors, c: Tensors) -> Tensor:
    """< c , dF/dw >."""
    with torch.enable_grad():
        by = torch.autograd.grad(loss, [leaves[k] for k in c], create_graph=True, allow_unused=True)
        gradient = dense({k: g for k, g in zip(c, by, strict=True) if g is not None})
        return (flat(gradient, c) * flat(c, c)).sum()

"""Functions that compute in fewer digits than those of what they read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .._evaluation.autograd_graph import operations
from .._evaluation.loss import split_loss
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.signal import split
from .._tensors import Tensors, continuous
from .precision import is_narrow
from .reference import part, parts
from .values import Frame, Values

__all__ = ["casts", "coarsest"]


def casts(values: Values, problem: Problem) -> dict[Node, torch.dtype]:
    """The narrow dtypes in which functions compute, though all that they read is float64.

    A cast is looked for on the way from what is read to the value, where its rounding counts: in
    the graph that autograd keeps. One of a metric, or of a batch, does no harm.

    Args:
        values: of the graph, in float64.
        problem: whose lower nodes are looked at, itself among them.

    Returns:
        The narrowest dtype of each function that has one.
    """
    values.begin(settles=False)
    frame = Frame(values, problem, values.standing(problem))
    found: dict[Node, torch.dtype] = {}
    for node in values.depends.reached(problem):
        inner = frame
        if isinstance(node, Problem) and node is not problem:
            inner = frame.below(node, values.standing(node))
        keys = [k for r in node.reads if not r.stopped for k in parts(values, inner, r.source)]
        point = {k: t for k in keys if continuous(t := part(inner, k))}
        if dtypes := _narrow(values, node, inner, point):
            found[node] = coarsest(dtypes)
    return found


def coarsest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """That of the fewest digits; float64 for none."""
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float64)


def _narrow(values: Values, node: Node, frame: Frame, point: Tensors) -> set[torch.dtype]:
    leaves = {k: t.requires_grad_() for k, t in point.items()}
    result = values.evaluate(node, frame.pinned(leaves))[0]
    parts: list[Tensor] = (
        [split_loss(result, node.name)[0]]
        if isinstance(node, Problem)
        else [*split(result, node.name).values()]
    )
    made: Any = [m for op in operations(parts) for m in op._input_metadata if m is not None]
    found = {m.dtype for m in made if is_narrow(m.dtype)}
    values.evaluator.release()
    return found

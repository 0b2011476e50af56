"""Two evaluations at one point: do they give the same bits?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._graph.node import Node
from .._graph.problem import Problem
from .values import Frame, Values

__all__ = ["repeat"]


def repeat(values: Values, problem: Problem, seen: set[Node]) -> list[str]:
    """Evaluate what a problem sees twice at one point, and compare bits.

    Args:
        values: of the graph, at the engine's own precision.
        problem: the problem.
        seen: nodes that were compared already; those compared here are added.

    Returns:
        A text for each node whose values differ.
    """
    graph, texts = values.graph, []
    frame = Frame(values, problem, values.standing(problem))
    for node in values.depends.reached(problem):
        if node in seen or graph.rank[node] > graph.rank[problem]:
            continue
        seen.add(node)
        inner = frame
        if isinstance(node, Problem) and node is not problem:
            inner = frame.below(node, values.standing(node))
        once, again = (_tensors(values.evaluate(node, inner)[0]) for _ in range(2))
        if all(torch.equal(a, b) for a, b in zip(once, again, strict=True)):
            continue
        off = max(map(_change, once, again))
        why = (
            "That is rounding: a kernel adds in another order each time "
            "(torch.use_deterministic_algorithms)."
            if off < 1e-5
            else "Its function draws outside of torch's generators (NumPy, random), counts its "
            "calls, or reads what changes: masks then differ between the two sides of a "
            "difference. Draw with torch, or in the loader."
        )
        texts.append(
            f"{graph.labels[node]}: two evaluations at one point differ by {off:.1e}. {why}"
        )
    return texts


def _tensors(value: Any) -> list[Tensor]:
    """Those of an objective's or a signal's value."""
    if isinstance(value, Tensor):
        return [value.detach()]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in _tensors(v)] if isinstance(value, list | tuple) else []


def _change(once: Tensor, again: Tensor) -> float:
    off = (once.double() - again.double()).abs().max()
    return float(off / (again.double().abs().max() + 1e-300))

"""Two evaluations at one point, and those of other functions between: the same bits?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._evaluation.surroundings import Surroundings
from .._graph.node import Node
from .._graph.problem import Problem
from .._tensors import real
from .study import Study
from .values import Frame, Values

__all__ = ["repeat"]


def repeat(study: Study, values: Values, problem: Problem, seen: set[Node]) -> None:
    """Evaluate all that a problem sees, and all once more at the same point; compare bits.

    Args:
        study: takes a cause or a text for each node whose values differ.
        values: of the graph, at the engine's own precision.
        problem: the problem.
        seen: nodes that were compared already; those compared here are added.
    """
    graph = values.graph
    frame = Frame(values, problem, values.standing(problem))
    said = {c.where for c in study.causes if c.kind == "state"}
    compared: list[tuple[Node, Frame, list[Tensor], Surroundings]] = []
    study.put_back()  # what the evaluations before this have left
    reached = values.depends.reached(problem)
    for node in sorted(reached, key=graph.nodes.index):  # in the order of a step
        if node in seen or graph.rank[node] > graph.rank[problem] or graph.labels[node] in said:
            continue
        seen.add(node)
        inner = frame
        if isinstance(node, Problem) and node is not problem:
            inner = frame.below(node, values.standing(node))
        once = _tensors(values.evaluate(node, inner)[0])
        compared.append((node, inner, once, Surroundings(node.fn)))
    for node, inner, once, surroundings in compared:
        left = surroundings.changed()
        again = _tensors(values.evaluate(node, inner)[0])
        if all(torch.equal(a, b) for a, b in zip(once, again, strict=True)):
            continue
        off = max(map(_change, once, again))
        text = f"{graph.labels[node]}: two evaluations at one point differ by {off:.1e}"
        if off < 1e-5:
            unless = f", unless what it changes matters: {' and '.join(left[:3])}" if left else ""
            study.texts.append(
                f"{text}. That is rounding, a kernel adds in another order each time "
                f"(torch.use_deterministic_algorithms){unless}."
            )
            continue
        what = f", which changes {' and '.join(left[:3])}" if left else ""
        study.cause(
            "state", node,
            f"{text}, if other functions are evaluated between them{what}. A function must leave "
            "nothing to others (a mode of a module that is no variable of theirs, a list, a "
            "counter): give it as an argument, or keep it in a buffer.",
        )  # fmt: skip


def _tensors(value: Any) -> list[Tensor]:
    """Those of an objective's or a signal's value."""
    if isinstance(value, Tensor):
        return [value.detach()]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in _tensors(v)] if isinstance(value, list | tuple) else []


def _change(once: Tensor, again: Tensor) -> float:
    once, again = real(once).double(), real(again).double()
    return float((once - again).abs().max() / (again.abs().max() + 1e-300))

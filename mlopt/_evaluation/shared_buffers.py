"""Buffers that several variables hold: who may write them."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import GraphError
from .._graph.node import Node
from .._graph.problem import Problem
from .aliases import address
from .layouts import same
from .point import Evaluator, Point

__all__ = ["check_shared_buffers"]


def check_shared_buffers(evaluator: Evaluator, node: Node, point: Point) -> None:
    """A buffer in two variables is written by none: each would move it on from where it stood.

    Args:
        evaluator: of the graph.
        node: a problem or signal.
        point: of its evaluation.

    Raises:
        GraphError: the node writes one.
    """
    owners = node.over if isinstance(node, Problem) else (node,)
    for source in (s for s in owners if s in evaluator.bindings):
        binding = evaluator.bindings[source]
        held = binding.held()
        others = {
            _place(b): other.name
            for other, found in evaluator.bindings.items()
            if found is not binding
            for b in found.held()
            if b is not None and _place(b)
        }
        shared = [i for i, b in enumerate(held) if b is not None and _place(b) in others]
        if not shared:
            continue
        _, written = evaluator(node, point, owner=owners)
        for i in shared:
            if written[source][i] is None or not same(written[source][i], held[i]):
                named = binding.module.named_buffers(remove_duplicate=False)
                name = next(name for name, b in named if b is held[i])
                raise GraphError(
                    f"{node.name} writes the buffer {name} of {source.name}, which is also one of "
                    f"{others[_place(held[i])]}: buffers move on once a step, and one of two "
                    "updates would be lost. Give each a module of its own, put the shared one into "
                    "eval mode, or put both into one variable."
                )


def _place(tensor: Tensor) -> int:
    """Where its memory begins; of a sparse one, which has several, what it is itself."""
    return address(tensor) or (0 if tensor.layout is torch.strided else -id(tensor))

"""Sparse gradients that no evaluation can make dense."""

from __future__ import annotations

from typing import Any

import torch

from .._errors import GraphError
from .._graph.graph import Graph
from .._graph.node import Node
from .autograd_graph import operations
from .point import Evaluator, Point

__all__ = ["check_sparse"]


def check_sparse(graph: Graph, evaluator: Evaluator, node: Node, point: Point, result: Any) -> None:
    """Refuse a function that looks up sparsely by itself where a gradient has to go on from there.

    Modules are evaluated with dense gradients there; the arguments of a call are its own.

    Args:
        graph: the graph.
        evaluator: of the graph.
        node: a problem or signal.
        point: where it was evaluated.
        result: what it returned.

    Raises:
        GraphError: it does, and levels are nested or a method takes several steps.
    """
    if not _looks_up_sparsely(result):
        return
    if all(graph.staged(p) and not graph.methods[p].traced for p in graph.problems):
        return
    with torch.enable_grad():
        again, _ = evaluator(node, point, keep=True, twice=True)
    if _looks_up_sparsely(again):
        raise GraphError(
            f"{node.name} calls embedding(..., sparse=True) itself, and sparse gradients cannot "
            "pass nested levels or several steps. Take an nn.Embedding(sparse=True), which is "
            "evaluated with dense ones there, or sparse=False."
        )


def _looks_up_sparsely(result: Any) -> bool:
    """Whether an embedding with sparse gradients is in the graph of a result."""
    return any(
        at.name().startswith("Embedding") and getattr(at, "_saved_sparse", False)
        for at in operations(result)
    )

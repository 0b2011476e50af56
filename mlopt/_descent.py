"""The one algorithm, going down: cotangents are pulled back to the variables of a problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ._derivatives import derivatives
from ._graph import Graph, Sweep
from ._hypergrad import Response
from ._node import Node
from ._problem import Problem
from ._signal import Signal
from ._sweep import Ascent
from ._tensors import Tensors, accumulate
from ._together import pull_together

__all__ = ["total_gradients"]


def total_gradients(ascent: Ascent, sweeps: Sequence[Sweep]) -> list[Tensors]:
    """The hypergradients of problems whose base evaluations stand: the reverse sweep.

    Each anticipated node is visited once for each problem, with the sum of all cotangents on its
    value; what was evaluated as one is visited together.

    Args:
        ascent: holds the evaluations.
        sweeps: each problem's walk; none of the problems is anticipated by another.

    Returns:
        Their gradients by key; parameters that nothing depends on are absent.
    """
    graph = ascent.graph
    walks = []
    for sweep in sweeps:
        response = ascent.problems[sweep.upper].response
        walks.append(walk := _Walk(sweep, response))
        if sweep.nodes:
            walk.distribute(graph, sweep.upper, response.argument_gradient)
    seen: set[Node] = set()
    for node in _downwards(graph, sweeps):
        if node in seen:
            continue
        together = ascent.together.get(node)
        visited = {node} if together is None else set(together.nodes)
        seen |= visited
        waiting = [(n, walk) for walk in walks for n in walk.cotangents if n in visited]
        while waiting:
            now: dict[Node, _Walk] = {}  # one cotangent on each node at a time
            for n, walk in waiting:
                now.setdefault(n, walk)
            waiting = [(n, walk) for n, walk in waiting if now[n] is not walk]
            asked = [(n, w.cotangents.pop(n), w.sweep.edges[n]) for n, w in now.items()]
            if together is None:
                found = [_pullback(ascent, *each) for each in asked]
            else:
                found = pull_together(ascent, together, asked)
            for (n, walk), passed in zip(now.items(), found, strict=True):
                walk.distribute(graph, n, passed)
    return [walk.total for walk in walks]


class _Walk:
    """One problem's way down: the cotangents on what it has yet to visit, and its gradient.

    Args:
        sweep: the walk.
        response: the problem's base evaluation.
    """

    def __init__(self, sweep: Sweep, response: Response) -> None:
        self.sweep = sweep
        self.cotangents: dict[Node, Tensors] = {}
        gradient = response.gradient
        self.total = {k: g.detach() if g.requires_grad else g for k, g in gradient.items()}

    def distribute(self, graph: Graph, node: Node, passed: Tensors) -> None:
        """Add what arrives at each source of a node to that source's sum."""
        for key, tensor in passed.items():
            if key[0] in self.sweep.upper.over:
                accumulate(self.total, {key: tensor})
            else:
                below = graph.source_node(node, key[0])
                assert below is not None
                accumulate(self.cotangents.setdefault(below, {}), {key: tensor})


def _downwards(graph: Graph, sweeps: Sequence[Sweep]) -> Sequence[Node]:
    """The nodes of all walks, from the highest to the lowest."""
    if len(sweeps) == 1:
        return sweeps[0].nodes
    reached = {n for sweep in sweeps for n in sweep.nodes}
    return [n for n in reversed(graph.nodes) if n in reached]


def _pullback(ascent: Ascent, node: Node, cotangent: Tensors, edges: Sequence[Any]) -> Tensors:
    if isinstance(node, Signal):
        outputs, inputs, cotangents = ascent.signals[node].terms(cotangent, edges)
        return derivatives(outputs, inputs, cotangents, retain_graph=True)
    assert isinstance(node, Problem)
    response = ascent.problems[node].response
    wanted = [k for k in response.arguments if k[0] in edges]
    with torch.no_grad():
        return ascent.graph.methods[node].pullback(response, cotangent, wanted)

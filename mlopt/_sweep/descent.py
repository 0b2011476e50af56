"""The one algorithm, going down: cotangents are pulled back to the variables of a problem."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.relations import Sweep
from .._graph.signal import Signal
from .._tensors import Tensors, accumulate, plus
from ..distributed.traffic import purpose
from ..hypergrad.derivatives import derivatives
from .ascent import Ascent
from .elsewhere import Solved, pulled
from .records import Together
from .together import pull_together
from .waves import downwards

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
    if len(sweeps) == 1 and not sweeps[0].nodes:  # nothing lies below
        return [_own_gradient(ascent, sweeps[0])]
    walks = [_Walk(ascent, sweep) for sweep in sweeps]
    if ascent.evaluator.ranks is not None and ascent.evaluator.ranks.homes:
        nodes = _downwards(ascent.graph, sweeps)
        _pull_in_waves(ascent, walks, downwards(nodes, sweeps, ascent.graph))
        return [walk.total for walk in walks]
    seen: set[Node] = set()
    for node in _downwards(ascent.graph, sweeps):
        together = ascent.together.get(node)
        if together is None:
            for walk in walks:
                cotangent = walk.take(node)
                if cotangent is not None:
                    walk.distribute(node, _pullback(ascent, node, cotangent, walk.edges[node]))
        elif node not in seen:
            seen.update(together.nodes)
            _pass_together(ascent, together, walks)
    return [walk.end() for walk in walks]


def _pull_in_waves(ascent: Ascent, walks: Sequence[_Walk], waves: Sequence[Sequence[Node]]) -> None:
    """The same, where nodes have homes: what is pulled back in a wave is there at its end."""
    solved = Solved(ascent)
    for wave in waves:
        found: list[tuple[_Walk, Node, Tensors]] = []
        for node, walk in ((n, w) for n in wave for w in walks if n in w.cotangents):
            edges, cotangent = walk.edges[node], walk.cotangents.pop(node)
            pull = functools.partial(_pullback, ascent, node, cotangent, edges)
            attempt = functools.partial(solved.attempt, pull)
            found.append((walk, node, pulled(ascent, node, edges, attempt)))
        ascent.arrive()
        solved.agree(wave)
        for walk, node, passed in found:
            walk.distribute(node, passed)
    solved.tell()


def _own_gradient(ascent: Ascent, sweep: Sweep) -> Tensors:
    """Of a problem's base evaluation, by its own variables; no graph."""
    gradient = ascent.record(sweep.upper).gradient
    return {k: g.detach() if g.requires_grad else g for k, g in gradient.items()}


class _Walk:
    """One problem's way down: the cotangents on what it has yet to visit, and its gradient.

    Args:
        ascent: holds the evaluations.
        sweep: the walk.
    """

    def __init__(self, ascent: Ascent, sweep: Sweep) -> None:
        self.graph, self.upper, self.edges = ascent.graph, sweep.upper, sweep.edges
        self.cotangents: dict[Node, Tensors] = {}
        #: what has arrived on other devices, by these, for a node; for the total at None
        self._away: dict[Node | None, dict[Any, Tensors]] = {}
        self._devices = ascent.evaluator.devices
        self.total = _own_gradient(ascent, sweep)
        if sweep.nodes:
            response = ascent.record(sweep.upper).response
            self.distribute(sweep.upper, response.argument_gradient)

    def distribute(self, node: Node, passed: Tensors) -> None:
        """Add what arrives at each source of a node to that source's sum."""
        sums: dict[Any, Tensors] = {}
        for key, tensor in passed.items():
            source = key[0]
            if source not in sums:
                sums[source] = self._sum(node, source)
            held = sums[source].get(key)
            sums[source][key] = tensor if held is None else plus(held, tensor)

    def take(self, node: Node) -> Tensors | None:
        """All that has arrived at a node, on its device; None for nothing."""
        found = self.cotangents.pop(node, None)
        for sums in self._away.pop(node, {}).values():
            found = {} if found is None else found
            accumulate(found, self._devices.back(node, sums))
        return found

    def end(self) -> Tensors:
        """The gradient, when all has arrived."""
        for sums in self._away.pop(None, {}).values():
            accumulate(self.total, self._devices.back(self.upper, sums))
        return self.total

    def _sum(self, node: Node, source: Any) -> Tensors:
        """Where cotangents from a node on one of its sources are added up: there first."""
        own = source in self.upper.over
        below = None if own else self.graph.source_node(node, source)
        if self._devices is not None and (at := self._devices.away(node, source)) is not None:
            return self._away.setdefault(below, {}).setdefault(at, {})
        if own:
            return self.total
        assert below is not None
        return self.cotangents.setdefault(below, {})


def _pass_together(ascent: Ascent, together: Together, walks: Sequence[_Walk]) -> None:
    """Pull back what waits on nodes that were evaluated as one."""
    waiting = [(n, walk) for walk in walks for n in walk.cotangents if n in together.nodes]
    while waiting:
        now: dict[Node, _Walk] = {}  # one cotangent on each node at a time
        for n, walk in waiting:
            now.setdefault(n, walk)
        waiting = [(n, walk) for n, walk in waiting if now[n] is not walk]
        asked = [(n, walk.cotangents.pop(n), walk.edges[n]) for n, walk in now.items()]
        found = pull_together(ascent, together, asked)
        for (n, walk), passed in zip(now.items(), found, strict=True):
            walk.distribute(n, passed)


def _downwards(graph: Graph, sweeps: Sequence[Sweep]) -> Sequence[Node]:
    """The nodes of all walks, from the highest to the lowest."""
    if len(sweeps) == 1:
        return sweeps[0].nodes
    reached = {n for sweep in sweeps for n in sweep.nodes}
    return [n for n in reversed(graph.nodes) if n in reached]


def _pullback(ascent: Ascent, node: Node, cotangent: Tensors, edges: Sequence[Any]) -> Tensors:
    if isinstance(node, Signal):
        outputs, inputs, cotangents = ascent.signals[node].terms(cotangent, edges)
        with purpose("cotangents"):
            return derivatives(outputs, inputs, cotangents, retain_graph=True)
    assert isinstance(node, Problem)
    response = ascent.problems[node].response  # which has arrived before the walk began
    wanted = [k for k in response.arguments if k[0] in edges]
    with purpose("products"):
        return ascent.graph.methods[node].pullback(response, cotangent, wanted)

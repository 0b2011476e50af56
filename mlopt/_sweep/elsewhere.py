"""Products that are computed where a node is at home, and what other ranks learn of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from .._errors import NonFiniteError
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.signal import Signal
from .._tensors import Tensors
from ..distributed.traffic import purpose
from ..hypergrad.interface import foreign
from .ascent import Ascent
from .records import deferred

__all__ = ["Solved", "pulled"]

Pull = Callable[[], Tensors]


def pulled(ascent: Ascent, node: Node, edges: Collection[Any], pull: Pull) -> Tensors:
    """What passes from a node to what it reads, computed at its home: there after `arrive`.

    Args:
        ascent: holds the evaluations.
        node: a problem or signal.
        edges: the sources that cotangents pass to.
        pull: computes it.

    Returns:
        Tensors by key.
    """
    if isinstance(node, Signal):
        inputs, what = ascent.signals[node].inputs, "cotangents"
    else:
        assert isinstance(node, Problem)
        inputs, what = ascent.problems[node].response.arguments, "products"
    wanted = {k: t for k, t in inputs.items() if k[0] in edges}
    with purpose(what):
        if what == "products":
            return ascent.evaluator.ranks.pulled(node, wanted, pull)
        with deferred(ascent.evaluator):
            return ascent.evaluator.ranks.pulled(node, wanted, pull)


class Solved:
    """What all ranks learn of the systems that are solved while nodes are pulled back.

    Args:
        ascent: is told of them at the end.
    """

    def __init__(self, ascent: Ascent) -> None:
        self._ascent = ascent
        self._heard: list[tuple[int, float, str]] = []
        self._failed: list[tuple[str, str]] = []

    def attempt(self, pull: Pull) -> Tensors:
        """Pull back; what a solver does not stand is raised on all ranks, by `agree`.

        Args:
            pull: does it.

        Returns:
            Tensors by key.
        """
        try:
            return pull()
        except NonFiniteError as error:
            self._failed.append((str(error), error.problem))
            return {}

    def agree(self, nodes: Sequence[Node]) -> None:
        """Nodes have been pulled back, at their homes.

        Args:
            nodes: they.

        Raises:
            NonFiniteError: a solver has met something that is not finite, on whatever rank.
        """
        methods = [self._ascent.graph.methods[n] for n in nodes if isinstance(n, Problem)]
        if not any(map(_may_solve, methods)):
            return
        own = [*self._ascent.residuals]
        self._ascent.residuals.clear()
        each = self._ascent.evaluator.ranks.ranks.collect((own, self._failed))
        for rank, (residuals, failed) in enumerate(each):
            for text, problem in failed:
                raise NonFiniteError(text, problem=problem)
            here = rank == self._ascent.evaluator.ranks.ranks.rank
            self._heard += [(at, r, solver if here else "") for at, r, solver in residuals]

    def tell(self) -> None:
        """Tell of all systems, in the order in which one process solves them."""
        for place, residual, solver in sorted(self._heard, key=lambda heard: -heard[0]):
            self._ascent.solved(self._ascent.graph.nodes[place], residual, solver)  # type: ignore[arg-type]


def _may_solve(method: Any) -> bool:
    """Whether a method may solve systems: one of a user's does as it likes."""
    return hasattr(getattr(method, "method", method), "solver") or foreign(method) is not None

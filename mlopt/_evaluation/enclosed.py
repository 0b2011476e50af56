"""What lies below a middle problem whose products are differences: it is displaced with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .._tensors import Key, Tensors, add_scaled
from ..hypergrad.derivatives import derivatives
from .causes import Aloud
from .loss import differentiable
from .point import Evaluator, Point
from .slope import differences, first_radius, moved, off, say
from .symmetry import asymmetric, moves, signs

__all__ = ["Enclosed"]


class Enclosed:
    """One node inside the total objectives of middle problems, whose methods take differences.

    Where such a problem's variables are displaced, the signals and the lower solutions that it
    reads follow. The differences see how their values change, its gradient goes through their
    backwards: the two have to agree. Of a signal it is the slope that is asked for; of a lower
    problem, whose solution is made of its gradient, how that gradient changes.

    Args:
        graph: the graph.
        evaluator: of the graph.
        inside: of each middle problem, the nodes that follow it.
        hear: where warnings go.
    """

    def __init__(
        self,
        graph: Graph,
        evaluator: Evaluator,
        inside: Mapping[Problem, frozenset[Node]],
        hear: Aloud,
    ) -> None:
        self.graph, self.evaluator, self.inside, self._hear = graph, evaluator, inside, hear
        self._before = dict(graph.methods)
        #: The problems whose differences have been warned of: of each, once.
        self.said: set[Problem] = set()
        #: The nodes that give the same again at one point, without which nothing can be asked.
        self.repeating: set[Node] = set()

    def moving(self, problem: Problem) -> list[Any]:
        """The variables and signals that are displaced with a problem: its own, and what follows.

        Args:
            problem: the problem.

        Returns:
            Sources.
        """
        inside = self.inside.get(problem, frozenset())
        stopped = {read.source for read in problem.reads if read.stopped}
        return [*problem.over, *self._following(inside, problem, stopped)]

    def again(self) -> frozenset[Node]:
        """What has to be asked once more, where methods have come to take differences.

        Returns:
            The problems with other methods than before that have not been warned of, and what
            follows them; of all others nothing will be said. None without nested levels, where a
            problem is asked when its method changes.
        """
        changed = (p for p, m in self.graph.methods.items() if m is not self._before[p])
        new = {p for p in changed if p in self.inside and p not in self.said}
        self.said.update(p for p in self.graph.problems if p not in new)
        return frozenset(new).union(*(self.inside[p] for p in new))

    def narrow(self, problem: Problem) -> dict[str, torch.dtype]:
        """The dtypes of low precision that a problem and what follows it compute in, by label.

        Args:
            problem: the problem.

        Returns:
            The dtypes, its own first.
        """
        inside = self.inside.get(problem, ())
        found = self.evaluator.precision.lost(self.evaluator.narrow)
        nodes = [problem, *(n for n in self.graph.nodes if n in inside)]
        return {self.graph.labels[n]: found[n] for n in nodes if n in found}

    def check(
        self, node: Node, point: Point, leaves: Tensors, gradient: Tensors, ways: list[str]
    ) -> None:
        """Warn once of each middle problem whose differences would not be those of this node.

        Args:
            node: a signal, or a lower problem.
            point: where it is evaluated.
            leaves: all that it reads and that requires a gradient, by key.
            gradient: of a problem's value there, by key.
            ways: in which it leaves autograd, in words; without any, nothing is asked.
        """
        for middle, inside in self.inside.items():
            product = differences(self.graph, middle, leaves)
            if product is None or middle in self.said or node not in {middle, *inside}:
                continue
            own = node.over if isinstance(node, Problem) else ()
            moving = {*middle.over, *self._following(inside, node, set())}.difference(own)
            stopped = moving & {read.source for read in node.reads if read.stopped}
            at = (node, point, leaves, gradient)
            still = [k for k in leaves if k[0] in stopped]
            keys = [k for k in leaves if k[0] in moving - stopped]
            others = {
                k: g for k, g in gradient.items()
                if k[0] not in moving and (k[0] in own) == (node is not middle)
            }  # fmt: skip
            if self._stops(node, point, leaves, others, still, first_radius(product)):
                why = (
                    f"stop({_names(still)}) is displaced there all the same, with what "
                    f"{self.graph.labels[node]} makes of it"
                )
            elif ways and node is not middle and self._bends(*at, keys, first_radius(product)):
                why = (
                    f"{self.graph.labels[node]}, which follows it, changes with {_names(keys)} in "
                    "another way than its backward says: part of it has no gradient, or a backward "
                    f"of its own ({', '.join(ways[:3])})"
                )
            else:
                continue
            self.said.add(middle)
            with self._hear("backward", self.graph.labels[middle]):
                say(self.graph, middle, why)

    def _following(self, inside: frozenset[Node], node: Node, stopped: set[Any]) -> list[Any]:
        """What a node reads of those inside."""
        sources = (r.source for r in node.reads if r.source not in stopped)
        return [s for s in sources if self.graph.node(s) in inside]

    def _stops(
        self,
        node: Node,
        point: Point,
        leaves: Tensors,
        others: Tensors,
        still: list[Key],
        radius: float,
    ) -> bool:
        """Whether what is seen of a node changes with what it reads without gradient."""
        along = {k: leaves[k] for k in still}
        if not isinstance(node, Problem):
            return self._shifts(self._value(node, point), along, radius)
        at = (self.evaluator, node, point, leaves)
        return bool(along and others) and moves(*at, along, others, radius)

    def _bends(
        self,
        node: Node,
        point: Point,
        leaves: Tensors,
        gradient: Tensors,
        keys: list[Key],
        radius: float,
    ) -> bool:
        """Whether what is seen of a node changes in another way than its backward says."""
        if not isinstance(node, Problem):
            return self._slopes(self._value(node, point), {k: leaves[k] for k in keys}, radius)
        method = self.graph.methods[node]
        over = {k: g for k, g in gradient.items() if k[0] in node.over}
        # Later steps of several are taken from elsewhere.
        later = over if method.traced else {}
        shifted = {k: gradient.get(k, torch.zeros_like(leaves[k])) for k in keys} | later
        if not (method.responds and over and shifted):
            return False
        at = (self.evaluator, node, point, leaves)
        return bool(asymmetric(*at, shifted, over, radius))

    def _value(self, signal: Node, point: Point) -> Callable[[Tensors], Tensor]:
        """A signal's values along a fixed direction: a scalar."""
        along: Tensors = {}

        def value(there: Tensors) -> Tensor:
            with torch.enable_grad():  # as in the differences: a function may look at it
                result, _ = self.evaluator(signal, moved(point, there), keep=True)
                parts = {(signal, str(i)): t for i, t in enumerate(differentiable(signal, result))}
            if not along:
                along.update(signs(parts))
            return sum(((along[k] * t).sum().real for k, t in parts.items()), torch.zeros(()))

        return value

    def _slopes(self, value: Callable[[Tensors], Tensor], leaves: Tensors, radius: float) -> bool:
        """Whether values change along their gradient in another way than that says."""
        with torch.enable_grad():
            total = value({})
            gradient = derivatives([total], leaves) if total.requires_grad else {}
        start = {k: t.detach() for k, t in leaves.items()}
        if off(lambda there: value(there).detach(), start, gradient, radius) is not None:
            return True
        return self._shifts(value, {k: t for k, t in start.items() if k not in gradient}, radius)

    def _shifts(self, value: Callable[[Tensors], Tensor], unseen: Tensors, radius: float) -> bool:
        """Whether values change with what no gradient passes to, by more than rounding."""
        if not unseen:
            return False
        start = {k: t.detach() for k, t in unseen.items()}
        sides = [value(add_scaled(start, signs(start), r)).detach() for r in (radius, -radius)]
        eps = torch.finfo(sides[0].dtype).eps
        plus, minus = map(float, sides)
        return abs(plus - minus) > 16 * eps * max(abs(plus), abs(minus))


def _names(keys: list[Key]) -> str:
    return " and ".join(dict.fromkeys(k[0].name for k in keys))

"""Are the two mixed derivatives of an objective one? Products by differences take them to be."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

import torch

from .._errors import exhausted
from .._graph.graph import Graph
from .._graph.problem import Problem
from .._tensors import Key, Tensors, add_scaled, difference, like, norm, real
from ..hypergrad.derivatives import derivatives
from .loss import split_loss
from .point import Evaluator, Point
from .slope import FAR, differences, dot, first_radius, moved, radii, say

__all__ = ["asymmetric", "check_symmetry", "moves", "signs"]

_HALF = 0.5  # of what parts differences from double backward: who sees more of it, sees it too
#: Tensors whose product is below so much of the largest one are not looked at.
_SMALL = 0.01


def check_symmetry(
    graph: Graph,
    evaluator: Evaluator,
    problem: Problem,
    point: Point,
    leaves: Tensors,
    gradient: Tensors,
    moving: Collection[Any],
    ways: Iterable[str],
) -> bool:
    """Warn once where a method's differences would be of another second derivative.

    A product is d/dr <dF/dw, u>; differences take the change of dF/dr along u for it. Where this is
    not what double backward gives, by more than rounding, either of them may be at fault: double
    backward does not see kinks. In the direction v in which they part, a third way decides:

        < dF/dr(w + e u) - dF/dr(w - e u), v > / 2e  =  < dF/dw(r + e v) - dF/dw(r - e v), u > / 2e

    holds for every F of which these are the derivatives, with kinks too; on ReLU supernets both
    sides are alike. It fails where something of w enters dF/dr without gradient: a weight that is
    made of a detached loss, a straight-through estimator.

    Asked only where the function leaves autograd or has a backward of its own, as nothing else
    can tell the two apart. It costs a double backward, and up to eight gradients.

    Args:
        graph: the graph.
        evaluator: of the graph.
        problem: the problem.
        point: where it is evaluated.
        leaves: all that it reads, by key.
        gradient: of its value there, by key.
        moving: the sources that are displaced: its own variables, and what follows them in nested
            levels.
        ways: in which it leaves autograd, in words.

    Returns:
        Whether it has warned.
    """
    product = differences(graph, problem, gradient)
    ways = list(ways)
    stopped = {read.source for read in problem.reads if read.stopped}
    own = {k: g for k, g in gradient.items() if k[0] in moving}
    others = {k: g for k, g in gradient.items() if k not in own and k[0] not in stopped}
    if product is None or not (ways and own and others):
        return False
    # What follows is displaced whether a gradient passes to it or not.
    unseen = (k for k in leaves if k[0] in moving and k[0] not in problem.over and k not in own)
    own |= {k: torch.zeros_like(leaves[k]) for k in unseen}
    names = asymmetric(evaluator, problem, point, leaves, own, others, first_radius(product))
    if names:
        displaced = dict.fromkeys(k[0].name for k in own)
        say(
            graph, problem,
            f"its derivative by {' and '.join(names)} changes with "
            f"{' and '.join(displaced)} in another way than the other way "
            f"round, at every radius: part of it has no gradient, or a backward of its own "
            f"({', '.join(ways[:3])})",
        )  # fmt: skip
    return bool(names)


def asymmetric(
    evaluator: Evaluator,
    problem: Problem,
    point: Point,
    leaves: Tensors,
    own: Tensors,
    others: Tensors,
    first: float,
) -> list[str]:
    """By what an objective's derivative changes in another way than double backward says.

    Args:
        evaluator: of the graph.
        problem: the problem.
        point: where it is evaluated.
        leaves: all that it reads, by key.
        own: its gradient by what is displaced, by key.
        others: its gradient by what it is differentiated by.
        first: the first radius.

    Returns:
        The names of those variables and signals; none where only kinks make the difference.
    """
    look = _Look(evaluator, problem, point, leaves, own, others)
    return look.names if look.differs(first) else []


def moves(
    evaluator: Evaluator,
    problem: Problem,
    point: Point,
    leaves: Tensors,
    along: Tensors,
    others: Tensors,
    radius: float,
) -> bool:
    """Whether an objective's gradient changes with some of what it reads, by more than rounding.

    Args:
        evaluator: of the graph.
        problem: the problem.
        point: where it is evaluated.
        leaves: all that it reads, by key.
        along: those with which it may change.
        others: its gradient by what it is differentiated by.
        radius: of the displacement.

    Returns:
        Whether it does.
    """
    still = {k: torch.zeros_like(t) for k, t in along.items()}
    return _Look(evaluator, problem, point, leaves, still, others).moves(radius)


class _Look:
    """The two sides at one point.

    Args:
        evaluator: of the graph.
        problem: the problem.
        point: where.
        leaves: all that it reads, by key.
        own: dF/dw, by what is displaced.
        others: dF/dr, by what is differentiated by; some may be displaced too.

    Attributes:
        names: of the variables and signals by which they differ.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        problem: Problem,
        point: Point,
        leaves: Tensors,
        own: Tensors,
        others: Tensors,
    ) -> None:
        self.evaluator, self.problem, self.point = evaluator, problem, point
        self.leaves, self.own, self.others = leaves, own, others
        self.names: list[str] = []
        self._u = signs(own)
        held = [*own.values(), *others.values()]
        # Some roundings in each gradient, of which none cancel.
        self._rounding = 16 * max(torch.finfo(t.dtype).eps for t in held)

    def differs(self, first: float) -> bool:
        """Whether they differ at the radii that rounding allows; two are asked."""
        exact = self._by_double_backward()
        found = False
        for radius in radii(first):
            change = self._change(self._u, list(self.others), radius)
            apart = self._apart(change, exact, radius)
            if not apart:
                return False
            v = signs(apart)
            gap = dot(apart, v)
            other = dot(self._change(v, list(self.own), radius), self._u)
            noise = self._rounding * float(norm(self.own, wide=True)) / radius
            if not (math.isfinite(gap) and noise < _HALF * gap):
                continue
            if abs(dot(change, v) - other) < _HALF * gap:  # kinks, which both see
                return False
            self.names = list(dict.fromkeys(k[0].name for k in apart))
            if found:
                break
            found = True
        return found

    def moves(self, radius: float) -> bool:
        """Whether the gradient changes along what is displaced."""
        change = self._change(self._u, list(self.others), radius)
        noise = self._rounding * float(norm(self.others, wide=True)) / radius
        return float(norm(change, wide=True)) > noise

    def _apart(self, change: Tensors, exact: Tensors, radius: float) -> Tensors:
        """Where differences and double backward part: of each tensor that they do in, how."""
        off = difference(change, exact, 1.0)
        sizes = {k: max(_length(change, k), _length(exact, k)) for k in off}
        large = _SMALL * max(sizes.values(), default=0.0)
        rounded = {k: self._rounding * _length(self.others, k) / radius for k in off}
        return {
            k: t for k, t in off.items()
            if sizes[k] >= large and not _length(off, k) <= FAR * sizes[k] + rounded[k]
        }  # fmt: skip

    def _change(self, along: Tensors, by: list[Key], radius: float) -> Tensors:
        """The central difference of the gradient along a direction."""
        base = {k: self.leaves[k].detach() for k in along}
        plus = self._gradient(add_scaled(base, along, radius), by)
        minus = self._gradient(add_scaled(base, along, -radius), by)
        return difference(plus, minus, 0.5 / radius)

    def _gradient(self, there: Tensors, by: list[Key]) -> Tensors:
        # What is displaced requires a gradient as it always does: the function may look at it.
        there = {k: t.requires_grad_() for k, t in there.items()}
        inputs = {k: there.get(k, self.leaves[k].detach().requires_grad_()) for k in by}
        with torch.enable_grad():
            at = moved(self.point, {**there, **inputs})
            result, _ = self.evaluator(self.problem, at, keep=True)
            loss, _ = split_loss(result, self.problem.name)
            return derivatives([loss], inputs) if loss.requires_grad else {}

    def _by_double_backward(self) -> Tensors:
        """d/dr <dF/dw, u>; nothing where there is no second derivative."""
        with torch.enable_grad():
            result, _ = self.evaluator(self.problem, self.point, keep=True, twice=True)
            loss, _ = split_loss(result, self.problem.name)
            try:
                own = {k: self.leaves[k] for k in self.own}
                first = derivatives([loss], own, create_graph=True)
                keys = [k for k, g in first.items() if g.requires_grad]
                others = {k: self.leaves[k] for k in self.others}
                return derivatives([first[k] for k in keys], others, [self._u[k] for k in keys])
            except RuntimeError as error:  # torch has no type of its own for it
                if exhausted(error):
                    raise
                return {}


def signs(tensors: Tensors) -> Tensors:
    """Signs, drawn where there are none; each tensor has the same length, all together one.

    Args:
        tensors: by key.

    Returns:
        A direction of length one.
    """
    draws = torch.Generator().manual_seed(0)
    out: Tensors = {}
    for key, tensor in tensors.items():
        numbers = real(tensor.detach())
        drawn = torch.randint(2, numbers.shape, generator=draws).to(numbers) * 2 - 1
        signs = torch.where(numbers == 0, drawn, numbers.sign())
        length = math.sqrt(max(signs.numel(), 1) * len(tensors))
        out[key] = like(signs / length, tensor)
    return out


def _length(tensors: Tensors, key: Key) -> float:
    return float(norm({key: tensors[key]}, wide=True)) if key in tensors else 0.0

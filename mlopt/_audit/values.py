"""Objectives and solutions by their definitions: nothing of the engine's derivatives.

A solution is resolved when it is first read, by plain autograd of the functions themselves:

    F_i(x; above)  reads  s_j(x, above) for each lower j,    s_j = w_j - lr dF_j/dw_j, say

No pullback, product, solver or sweep of the engine takes part. What is shared with it is the call
of a function at a point, batches and seeds, and the optimizers' rules as functions of values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._errors import exhausted
from .._evaluation.loss import split_loss
from .._evaluation.point import Evaluator, Point
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.signal import Signal, join, split
from .._graph.trained import trainable
from .._tensors import Tensors, continuous, dense
from .._variable import Variable
from .dependence import Dependence
from .optima import Optimum
from .vectors import dimension

__all__ = ["Frame", "Values"]


class Frame:
    """What one evaluation of a problem's objective reads, each value found once, when it is read.

    Args:
        values: of the graph.
        owner: whose objective it is.
        own: its variables' tensors, by key; in a game those of other players too, if they moved.
        parent: the frame of the reader that asks for the owner's solution.
        inner: index of the owner's inner step.
        order: how often what is computed here will be differentiated.
    """

    def __init__(
        self,
        values: Values,
        owner: Problem,
        own: Tensors,
        parent: Frame | None = None,
        inner: int = 0,
        order: int = 0,
    ) -> None:
        self.values, self.owner, self.parent = values, owner, parent
        self.inner, self.order = inner, order
        self.path: tuple[Any, ...] = (*(parent.path if parent else ()), (owner, inner))
        self.found: dict[Any, Any] = {v: values.constants(v) for v in values.graph.beside(owner)}
        self.played: dict[Any, Tensors] = {}  # where the players of a game have moved, for reading
        self.pin(own)

    def pin(self, tensors: Tensors) -> None:
        """Put tensors in the place of parts of what is read here."""
        for (source, name), tensor in tensors.items():
            value = self.value(source)
            if isinstance(source, Signal):
                self.found[source] = join(value, {**split(value, source.name), name: tensor})
            else:
                self.found[source] = {**value, name: tensor}

    def below(self, owner: Problem, own: Tensors, inner: int = 0, order: int = 0) -> Frame:
        """The frame of a problem whose solution is read here."""
        return Frame(self.values, owner, own, self, inner, order)

    def pinned(self, tensors: Tensors) -> Frame:
        """The same frame with other tensors in it."""
        other = Frame(self.values, self.owner, {}, self.parent, self.inner, self.order)
        other.found = dict(self.found)
        other.pin(tensors)
        return other

    def value(self, source: Any) -> Any:
        """A variable's tensors by name, or a signal's value."""
        if source not in self.found:
            depends = self.values.depends
            inside = depends.node(source) in depends.follows(self.owner)
            if self.parent is not None and not inside:
                return self.parent.value(source)
            if isinstance(source, Signal):
                self.found[source] = self.values.evaluate(source, self)[0]
            else:
                self.found.update(self.values.solve(self.values.graph.owner[source], self))
        return self.found[source]


class Values:
    """The values of a graph's objectives and solutions at one step's batches and seeds.

    What counts as a constant (a stopped read, Adam's second moment for `OneStep`) is remembered
    from the first evaluation after `remember`, and held where its arguments are displaced.

    Args:
        depends: who depends on whom.
        evaluator: calls the graph's functions.
        batch: (node, inner loops, innermost first) -> its batch.
        seed: (node, inner step) -> the seed of an evaluation.
        dense_limit: the most numbers for which a matrix is built.
        solution: (values, problem, the reader's frame, order) -> what readers see of the problem.
    """

    def __init__(
        self,
        depends: Dependence,
        evaluator: Evaluator,
        batch: Callable[[Node, Any], Any],
        seed: Callable[[Node, int], int],
        dense_limit: int,
        solution: Callable[[Values, Problem, Frame, int], Tensors],
    ) -> None:
        self.depends, self.graph, self.evaluator = depends, depends.graph, evaluator
        self.batch, self.seed, self.dense_limit = batch, seed, dense_limit
        self._solution = solution
        self.targets: dict[Problem, Tensor] = {}  # what dF/dw is at an optimum, if not zero
        self.settles = True  # whether optima are found anew, or taken where they stand
        self.kinked: dict[Problem, bool] = {}  # known so far
        self._inner: set[Node] = set()  # whose functions take gradients by what they read
        self._held: dict[Any, Any] = {}
        self._optima: dict[tuple[Problem, ...], Optimum] = {}

    def begin(self, settles: bool) -> None:
        """Forget what was held and the targets; optima are found anew, or taken as they stand."""
        self.remember()
        self.targets.clear()
        self.settles = settles

    def remember(self) -> None:
        """Forget what was held: the next evaluation is at the standing point."""
        self._held.clear()

    def constants(self, variable: Variable) -> dict[str, Tensor]:
        """A variable's standing value."""
        return {k: p.detach() for k, p in variable.named_parameters().items() if p.requires_grad}

    def standing(self, problem: Problem) -> Tensors:
        """The parameters that a problem updates."""
        return {k: p.detach() for k, p in trainable(problem).items()}

    def objective(self, frame: Frame, start: Any = None) -> tuple[Tensor, Any]:
        """The owner's objective in a frame, and the buffers it wrote."""
        result, written = self.evaluate(frame.owner, frame, frame.owner.over, start)
        return split_loss(result, frame.owner.name)[0], written

    def evaluate(self, node: Node, frame: Frame, owner: Any = (), start: Any = None) -> Any:
        """A function of the graph, with what it reads as a frame sees it."""
        values: dict[Variable, Any] = {}
        signals: dict[Signal, Any] = {}
        for read in node.reads:
            value = frame.value(read.source)
            if read.stopped:
                value = self.hold((frame.path, node, read.source), value)
            if isinstance(read.source, Signal):
                signals[read.source] = value
            else:
                values[read.source] = _leaves(value) if node in self._inner else value
        loops, at = [], frame
        while at is not None:
            if at.inner:
                loops.append((at.owner, at.inner))
            at = at.parent
        point = Point(values, signals, self.batch(node, loops), self.seed(node, frame.inner))
        try:
            with torch.enable_grad():
                return self.evaluator.evaluate(
                    node, point, owner=owner, keep=True, twice=True, start=start
                )
        except RuntimeError as error:  # torch has no type of its own for what needs no gradient
            if node in self._inner or exhausted(error):
                raise
            self._inner.add(node)
            return self.evaluate(node, frame, owner, start)

    def hold(self, key: Any, value: Any) -> Any:
        """The first value of this key since `remember`, as a constant."""
        return self._held.setdefault(key, _detached(value))

    def slope(
        self,
        problem: Problem,
        w: Tensors,
        frame: Frame | None,
        order: int,
        inner: int = 0,
        start: Any = None,
        others: Tensors | None = None,
    ) -> tuple[Tensors, Tensors, Any]:
        """dF/dw as a function of w and of the frame, differentiable `order` times.

        Args:
            problem: the problem.
            w: where, by key.
            frame: of the reader.
            order: how often.
            inner: index of the inner step.
            start: buffers to begin with.
            others: where the other players of its game stand, by key.

        Returns:
            w as it was differentiated by, the gradient by key, the buffers that were written.
        """
        leaves = {
            k: t.view_as(t) if order and t.requires_grad else t.detach().requires_grad_()
            for k, t in w.items()
        }
        at = Frame(self, problem, {**(others or {}), **leaves}, frame, inner, order + 1)
        loss, written = self.objective(at, start)
        if not loss.requires_grad:
            return leaves, {}, written
        found = torch.autograd.grad(
            loss, list(leaves.values()), create_graph=order > 0, allow_unused=True
        )
        found = {k: g for k, g in zip(leaves, found, strict=True) if g is not None}
        return leaves, dense(found), written

    # Solutions.

    def solve(self, problem: Problem, frame: Frame) -> dict[Variable, Any]:
        """A lower problem's variables as a frame sees them."""
        out: dict[Variable, Any] = {v: self.constants(v) for v in problem.over}
        top = frame.path[0][0]
        if self.graph.rank[problem] > self.graph.rank[top] or not self.depends.moving(problem):
            return out
        if self.graph.methods[problem].responds:
            found = self._solution(self, problem, frame, frame.order)
        else:
            found = self.hold((frame.path, problem), self._solution(self, problem, frame, 0))
        for (variable, name), tensor in found.items():
            out[variable] = {**out[variable], name: tensor}
        return out

    def optimum(self, players: tuple[Problem, ...]) -> Optimum:
        """The search for the optimum of problems that are solved together; it keeps its matrix."""
        if players not in self._optima:
            name = " and ".join(p.name for p in players)
            self._optima[players] = Optimum(name, self.dense_limit, symmetric=len(players) == 1)
        return self._optima[players]

    def target(self, players: Sequence[Problem]) -> Tensor | None:
        """What their dF/dw is at the optimum, flat; None for zero."""
        if not any(p in self.targets for p in players):
            return None
        parts = [self.targets.get(p) for p in players]
        sizes = [dimension(self.standing(p)) for p in players]
        known = next(t for t in parts if t is not None)
        return torch.cat(
            [known.new_zeros(n) if t is None else t for t, n in zip(parts, sizes, strict=True)]
        )


def _leaves(value: dict[str, Tensor]) -> dict[str, Tensor]:
    """A variable's value, of which constants are tensors that gradients may be taken by."""
    free = {k: continuous(t) and not t.requires_grad for k, t in value.items()}
    return {k: t.detach().requires_grad_() if free[k] else t for k, t in value.items()}


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {k: _detached(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        parts = [_detached(v) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value

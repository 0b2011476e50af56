"""Total objectives: a problem whose lower solutions follow, as one differentiable function.

The sweep of `_sweep.py` evaluates every node once and is all that a staged graph needs. Where a
middle problem steers lower ones, or a solution takes several steps, readers need it at other points
than the standing one. Here each objective is evaluated in a scope that knows the values of its own
and of higher variables, and resolves all that is lower from the top down, when it is first read:

    F_i as seen at (w_i, x_above):    x_j = s_j(x_(j+1), ..., w_i, x_above),  for each lower j

A solution enters the autograd graph as one node, whose backward is its method's pullback, which is
differentiable in its turn: a total objective is again an objective, and any method can serve it.

Reference: Sato, Tanaka, Takeda, "A Gradient Method for Multilevel Optimization", NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._evaluation.loss import split_loss
from .._evaluation.point import Evaluator, Point
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.signal import Signal, join, split
from .._tensors import Tensors, grouped
from .._variable import Variable
from ..hypergrad.interface import Response, gradient
from .scope import Attach, Cut, Scope
from .traced import Tracer, Trajectory

__all__ = ["TotalObjectives"]

Values = dict[str, Tensor]


class TotalObjectives:
    """The total objectives of one step, at its batches and seeds.

    Args:
        graph: the graph.
        evaluator: of the graph.
        parameters: each problem's parameters by key.
        dormant: problems before their start, which are read as they stand.
        batch: (node, inner loops as (problem, index), innermost first) -> its batch.
        seed: (node, inner step) -> the seed of an evaluation.
    """

    def __init__(
        self,
        graph: Graph,
        evaluator: Evaluator,
        parameters: Mapping[Problem, Tensors],
        dormant: frozenset[Problem],
        batch: Callable[[Node, Sequence[tuple[Problem, int]]], Any],
        seed: Callable[[Node, int], int],
    ) -> None:
        self.graph, self.evaluator, self.parameters = graph, evaluator, parameters
        self.dormant, self._batch, self._seed = dormant, batch, seed
        self.trajectories: dict[Problem, Trajectory] = {}
        self._tracer = Tracer(self)
        self.written: dict[Signal, dict[Any, list[Tensor]]] = {}
        self.signals: dict[Signal, Any] = {}
        self._references: dict[Problem, Tensors] = {}
        self._constants: dict[Variable, Values] = {}

    # A problem's own update.

    def base(self, problem: Problem) -> tuple[Tensor, dict[str, Any], Tensors, dict[Any, Any]]:
        """The total objective of a problem at the standing values, and its gradient.

        Args:
            problem: the problem.

        Returns:
            Its loss, metrics, total gradient by key, and the buffers that the evaluation wrote.
        """
        own = self.parameters[problem]
        scope = Scope(self, problem, own)
        with torch.enable_grad():
            result, written = self.evaluate(problem, scope, owner=problem.over)
            loss, metrics = split_loss(result, problem.name)
            # A problem that acts through lower ones alone has no gradient while those stand still.
            found = gradient(loss, own, problem.name) if loss.requires_grad else {}
        return loss.detach(), metrics, found, written

    def trajectory(self, problem: Problem) -> Trajectory:
        """The steps of a problem whose method takes several, at the standing values.

        Args:
            problem: the problem.

        Returns:
            Where they lead.
        """
        if problem not in self.trajectories:
            with torch.no_grad():
                self._tracer.trace(problem, Scope(self, problem, {}), constant=True)
        return self.trajectories[problem]

    # Evaluations.

    def evaluate(
        self,
        node: Node,
        scope: Scope,
        owner: Sequence[Any] = (),
        start: Mapping[Any, list[Tensor]] | None = None,
    ) -> tuple[Any, dict[Any, list[Tensor]]]:
        """A function of the graph, with what it reads as a scope sees it."""
        values: dict[Variable, Values] = {}
        signals: dict[Signal, Any] = {}
        for read in node.reads:
            value = scope.value(read.source)
            if isinstance(read.source, Signal):
                if read.stopped:
                    parts = split(value, read.source.name)
                    value = join(value, {k: t.detach() for k, t in parts.items()})
                signals[read.source] = value
            else:
                if read.stopped:
                    value = {k: t.detach() for k, t in value.items()}
                values[read.source] = value
        loops: list[tuple[Problem, int]] = []
        at: Scope | None = scope
        while at is not None:
            if at.inner:
                loops.append((at.owner, at.inner))
            at = at.parent
        point = Point(values, signals, self._batch(node, loops), self._seed(node, scope.inner))
        # A signal is remembered as the first evaluation of a step gave it, at the highest scope.
        remember = isinstance(node, Signal) and node not in self.signals
        result, written = self.evaluator(
            node, point, owner=(node,) if remember else owner, keep=True, start=start
        )
        if remember:
            self.signals[node], self.written[node] = result, written  # type: ignore[index]
        return result, written

    def constants(self, variable: Variable) -> Values:
        """A variable's standing value, without gradient."""
        if variable not in self._constants:
            self._constants[variable] = {
                name: p.detach()
                for name, p in self.evaluator.parameters(variable).items()
                if p.requires_grad
            }
        return self._constants[variable]

    # Solutions.

    def solve(self, problem: Problem, scope: Scope) -> dict[Variable, Values]:
        """A lower problem's solution as the reader in this scope sees it."""
        method = self.graph.methods[problem]
        standing = {v: self.constants(v) for v in problem.over}
        above = self.graph.rank[problem] > self.graph.rank[self._top(scope)]
        if above or not self.graph.participates(problem, self.dormant):
            return standing
        if method.traced:
            solution = self._tracer.trace(problem, scope, constant=not method.responds)
        else:
            solution = self._attached(problem, scope)
        for variable, tensors in grouped(solution).items():
            standing[variable] = {**standing[variable], **tensors}
        return standing

    def _top(self, scope: Scope) -> Problem:
        while scope.parent is not None:
            scope = scope.parent
        return scope.owner

    def _attached(self, problem: Problem, scope: Scope) -> Tensors:
        method = self.graph.methods[problem]
        displaced = self.displaced_for(problem, scope)
        mode = "constant" if not method.responds else "alias" if scope.differentiable else "leaf"
        cut = Cut(scope, mode)
        standing = self.standing(problem)
        # An optimum that nothing has moved is known without an evaluation, and differentiated where
        # it stands once the graph of its readers is there.
        late = method.at_solution and not displaced and scope.differentiable and method.responds
        if late:
            for source in self.graph.cuts(problem):
                cut.value(source)
            response = None
            values = standing
        else:
            response = self._respond(problem, cut, standing, displaced)
            with torch.no_grad():
                values = method.solution(response)
        if not method.responds or not cut.originals:
            return {k: t.detach() for k, t in values.items()}
        keys, wanted = list(values), list(cut.originals)
        again = method.at_solution and (displaced or scope.differentiable)

        def pullback(cotangents: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> list[Any]:
            at = response
            if again:
                at = self._respond(problem, cut, dict(zip(keys, outputs, strict=True)), displaced)
            cotangent = {k: c for k, c in zip(keys, cotangents, strict=True) if c is not None}
            known = [k for k in wanted if k in cut.arguments]
            found = method.pullback(at, cotangent, known) if cotangent else {}  # type: ignore[arg-type]
            return [found.get(k) for k in wanted]

        outputs = Attach.apply(pullback, [values[k] for k in keys], *cut.originals.values())
        return dict(zip(keys, outputs, strict=True))

    def _respond(self, problem: Problem, cut: Cut, value: Tensors, displaced: bool) -> Response:
        """The problem's response at a value: one evaluation of its total objective."""
        method = self.graph.methods[problem]
        cost = method.cost
        differentiable = cut.scope.differentiable or cost.keeps_graph
        connected = torch.is_grad_enabled()
        leaves = {
            k: t.view_as(t) if connected and t.requires_grad else t.detach().requires_grad_()
            for k, t in value.items()
        }
        with torch.enable_grad():
            moved = displaced and method.at_solution
            scope = Scope(
                self, problem, leaves, cut, differentiable=differentiable, displaced=moved
            )
            loss, _ = split_loss(self.evaluate(problem, scope)[0], problem.name)
            inputs = {**leaves, **cut.arguments} if cost.keeps_base else leaves
            found = gradient(loss, inputs, problem.name, create_graph=differentiable)

        def objective(other: Tensors, inner: int = 0, arguments: Tensors | None = None) -> Tensor:
            at = Scope(
                self, problem, other, cut.moved(arguments) if arguments else cut,
                differentiable=differentiable, displaced=True, inner=inner,
            )  # fmt: skip
            return split_loss(self.evaluate(problem, at)[0], problem.name)[0]

        return Response(
            name=problem.name,
            value=leaves if connected else {k: t.detach() for k, t in value.items()},
            leaves=leaves,
            gradient={k: found[k] for k in leaves if k in found},
            arguments=cut.arguments,
            argument_gradient={k: found[k] for k in cut.arguments if k in found},
            parameters=self.parameters[problem],
            optimizer=problem.optimizer,
            objective=objective,
            reference=self._reference(problem) if displaced and method.at_solution else None,
            upstream={**cut.originals, **value},
            seed=self._seed(problem, 0),
        )

    def standing(self, problem: Problem) -> Tensors:
        """A problem's standing value, without gradient."""
        return {k: p.detach() for k, p in self.parameters[problem].items()}

    def _reference(self, problem: Problem) -> Tensors:
        """The gradient at the standing values, from which an optimum follows."""
        if problem not in self._references:
            leaves = {k: t.requires_grad_() for k, t in self.standing(problem).items()}
            scope = Scope(self, problem, leaves)
            with torch.enable_grad():
                loss, _ = split_loss(self.evaluate(problem, scope)[0], problem.name)
                self._references[problem] = gradient(loss, leaves, problem.name)
        return self._references[problem]

    # What has moved.

    def displaced_for(self, problem: Problem, scope: Scope) -> bool:
        """Whether anything that a problem's total objective reads has left its standing value."""
        return any(self._displaced(s, problem, scope) for s in self.graph.cuts(problem))

    def _displaced(self, source: Any, reader: Problem, scope: Scope) -> bool:
        """Whether a source has another value than in the reader's own update."""
        if isinstance(source, Signal):
            return any(self._displaced(r.source, reader, scope) for r in source.reads)
        at: Scope | None = scope
        owner = self.graph.owner[source]
        while at is not None and at.owner is not owner and not at.resolves(source):
            at = at.parent
        if at is None:
            return False
        if at.owner is owner:
            return at.displaced
        if self.graph.rank[owner] > self.graph.rank[self._top(at)]:
            return False
        if not self.graph.participates(owner, self.dormant):
            return False
        # A lower solution has moved in the reader's own update as well.
        if self.graph.methods[owner].moves and self.graph.rank[owner] > self.graph.rank[reader]:
            return True
        return any(self._displaced(s, reader, at) for s in self.graph.cuts(owner))

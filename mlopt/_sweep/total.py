"""Total objectives: a problem whose lower solutions follow, as one differentiable function.

The sweep of `ascent.py` evaluates every node once and is all that a staged graph needs. Where a
middle problem steers lower ones, or a solution takes several steps, readers need it at other points
than the standing one. Here each objective is evaluated in a scope that knows the values of its own
and of higher variables, and resolves all that is lower from the top down, when it is first read:

    F_i as seen at (w_i, x_above):    x_j = s_j(x_(j+1), ..., w_i, x_above),  for each lower j

A solution enters the autograd graph as one node, whose backward is its method's pullback, which is
differentiable in its turn: a total objective is again an objective, and any method can serve it.

Reference: Sato, Tanaka, Takeda, "A Gradient Method for Multilevel Optimization", NeurIPS 2021.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from .._evaluation.loss import split_loss
from .._graph.problem import Problem
from .._graph.signal import Signal
from .._tensors import Tensors, grouped
from .._variable import Variable
from ..distributed.traffic import purpose
from ..hypergrad.interface import Response, gradient
from .attach import Attach
from .equilibrium import in_equilibrium
from .evaluations import Evaluations, detached_signal
from .records import Update, Values, detached, on_ranks, parts_of
from .scope import Cut, Frame, Scope
from .traced import Trajectory, trace

__all__ = ["TotalObjectives"]


class TotalObjectives(Evaluations):
    """The total objectives of one step: their gradients, and the solutions in them.

    A lower problem that a reader evaluates where it stands has had its own update's evaluation
    then: each is made once. So the highest problem is best asked first.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._trajectories: dict[Problem, Trajectory] = {}
        self._updates: dict[Problem, Update] = {}
        self._usual: dict[Any, Any] = {}  # values by source, where nothing has moved
        self.widens = self.evaluator.precision.widens

    # A problem's own update.

    def update(self, problem: Problem) -> Update:
        """The total objective of a problem at the standing values, and its gradient.

        Args:
            problem: the problem.

        Returns:
            What its update takes.
        """
        if problem not in self._updates:
            own = self.parameters[problem]
            frame = self.frame(problem, wide=self.widens(problem))
            scope = self.scope(frame, own, self.find)
            with torch.enable_grad():
                result, written = self.evaluate(problem, scope, owner=problem.over)
                loss, metrics = split_loss(result, problem.name)
                self.noted.append((problem, loss.detach()))
                # One that acts through lower ones alone has no gradient while those stand still.
                found = gradient(loss, own, problem.name) if loss.requires_grad else {}
            self._updates[problem] = Update(loss.detach(), detached(metrics), found, written)
        return self._updates[problem]

    @property
    def known(self) -> Collection[Problem]:
        """The problems whose updates have been evaluated."""
        return self._updates.keys()

    def trajectory(self, problem: Problem) -> Trajectory:
        """The steps of a problem whose method takes several, at the standing values.

        Args:
            problem: the problem.

        Returns:
            Where they lead.
        """
        if problem not in self._trajectories:
            scope = self.scope(self.frame(problem), {}, self.find)
            with torch.no_grad():
                self._keep(trace(self, problem, scope, constant=True)[1])
        return self._trajectories[problem]

    def _keep(self, trajectories: dict[Problem, Trajectory]) -> None:
        for problem, trajectory in trajectories.items():
            self._trajectories.setdefault(problem, trajectory)

    # Solutions.

    def find(self, source: Any, scope: Scope) -> dict[Any, Any]:
        """What a source is where it follows the scope's owner, or at the top.

        Args:
            source: a signal or a variable.
            scope: that reads it.

        Returns:
            Values by source: the signal's, or those of all variables of the problem over it.
        """
        frame = scope.frame
        owner = None if isinstance(source, Signal) else self.graph.owner[source]
        if owner is not None and frame.stands(owner):
            return {v: self.constants(v) for v in owner.over}
        usual = not frame.loops and frame.usual(source)
        top = frame.parent is None
        if usual and top and not frame.depends(source) and (known := self._constant(source)):
            return known
        if owner is not None:
            return dict(self._solve(owner, scope))
        value = self.evaluate(source, scope)[0]
        if usual:
            self._usual[source] = detached_signal(value, source)
        return {source: value}

    def _constant(self, source: Any) -> dict[Any, Any]:
        """What a source is for those whose variables do not act on it; empty if that is not known.

        Args:
            source: a signal, or a variable of a problem.

        Returns:
            Values by source.
        """
        if isinstance(source, Signal):
            return {source: self._usual[source]} if source in self._usual else {}
        problem = self.graph.owner[source]
        method = self.graph.methods[problem]
        if method.traced:
            solution = self.trajectory(problem).value
        elif not method.moves:
            solution = {}
        else:
            if problem not in self._usual:
                with torch.no_grad():
                    self._usual[problem] = method.solution(self._own_response(problem))
            solution = self._usual[problem]
        standing = {v: self.constants(v) for v in problem.over}
        return {v: {**own, **grouped(solution).get(v, {})} for v, own in standing.items()}

    def _own_response(self, problem: Problem) -> Response:
        """The response of a problem's own update, from which its solution follows."""
        own = self.parameters[problem]

        def objective(
            other: Tensors, inner: int = 0, arguments: Tensors | None = None, kept: bool = True
        ) -> Tensor:
            del kept  # here all are
            assert not arguments, f"{problem.name}: its own update has no arguments"
            wide = self.widens(problem, further=True)
            frame = self.frame(problem, displaced=True, inner=inner, wide=wide)
            scope = self.scope(frame, other, self.find)
            return split_loss(self.evaluate(problem, scope)[0], problem.name)[0]

        return Response(
            name=problem.name,
            value=self.standing(problem),
            leaves=own,
            gradient=self.update(problem).gradient,
            arguments={},
            argument_gradient={},
            parameters=own,
            optimizer=problem.optimizer,
            objective=objective,
            seed=self.seed(problem, 0),
        )

    def _solve(self, problem: Problem, scope: Scope) -> dict[Variable, Values]:
        """A lower problem's solution as the reader in this scope sees it."""
        standing = {v: self.constants(v) for v in problem.over}
        method = self.graph.methods[problem]
        displaced = scope.frame.displaces(problem)
        if method.traced:
            solution, taken = trace(self, problem, scope, constant=not method.responds)
            if not displaced:
                self._keep(taken)
        elif len(players := self.graph.solved_with(problem, self.dormant)) > 1:
            if players not in scope.played:  # solved together: once for all of them
                scope.played[players] = in_equilibrium(self, players, scope, self._respond)
            solution = {k: t for k, t in scope.played[players].items() if k[0] in problem.over}
        else:
            solution = self._attached(problem, scope, displaced)
        for variable, tensors in grouped(solution).items():
            standing[variable] = {**standing[variable], **tensors}
        return standing

    def _attached(self, problem: Problem, scope: Scope, displaced: bool) -> Tensors:
        method = self.graph.methods[problem]
        differentiable = scope.frame.differentiable
        mode = "constant" if not method.responds else "alias" if differentiable else "leaf"
        cut = Cut(scope, self.graph.cuts(problem, self.dormant), mode)
        standing = self.standing(problem)
        # An optimum that nothing has moved is known without an evaluation, and differentiated where
        # it stands once the graph of its readers is there.
        if method.at_solution and not displaced and differentiable and method.responds:
            response, values = None, standing
        else:
            # The leaves are those of the problem's own update, which may take its evaluation.
            leaves = _leaves(standing) if displaced else self.parameters[problem]
            response = self._respond(problem, cut, standing, leaves, displaced)
            with torch.no_grad():
                values = method.solution(response)
            if self._shares(problem, displaced, scope.frame):
                self._usual.setdefault(problem, {k: t.detach() for k, t in values.items()})
        if not method.responds or not cut.originals:
            return {k: t.detach() for k, t in values.items()}
        keys, wanted = list(values), list(cut.originals)
        again = method.at_solution and (displaced or differentiable)

        def pullback(cotangents: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> list[Any]:
            at = response
            if again or at is None:
                value = dict(zip(keys, outputs, strict=True))
                at = self._respond(problem, cut, value, _leaves(value), displaced)
            cotangent = {k: c for k, c in zip(keys, cotangents, strict=True) if c is not None}
            known = [k for k in wanted if k in cut.arguments]
            with purpose("products"):
                found = method.pullback(at, cotangent, known) if cotangent else {}
            return [found.get(k) for k in wanted]

        outputs = Attach.apply(pullback, [values[k] for k in keys], *cut.originals.values())
        return dict(zip(keys, outputs, strict=True))

    def _shares(self, problem: Problem, displaced: bool, frame: Frame) -> bool:
        """Whether what a reader evaluates in this frame is what the problem would for itself."""
        still = not (displaced or frame.loops)
        return still and self.graph.separable(problem, self.dormant)

    def _respond(
        self,
        problem: Problem,
        cut: Cut,
        value: Tensors,
        leaves: Tensors,
        displaced: bool,
        others: Tensors | None = None,
    ) -> Response:
        """The problem's response at a value: one evaluation of its total objective."""
        beside = others or {}  # variables of players that are solved with it, among its arguments
        arguments = {**beside, **cut.arguments}
        method = self.graph.methods[problem]
        cost = method.cost
        differentiable = cut.frame.differentiable or cost.keeps_graph
        follows = displaced and method.at_solution
        wide = self.widens(problem)
        frame = cut.frame.below(
            problem, differentiable=differentiable, displaced=follows, wide=wide
        )
        with torch.enable_grad():
            scope = self.scope(frame, {**beside, **leaves}, cut.find, cut)
            result, written = self.evaluate(problem, scope, owner=problem.over)
            loss, metrics = split_loss(result, problem.name)
            if not displaced:
                self.noted.append((problem, loss.detach()))
            inputs = {**leaves, **arguments} if cost.keeps_base else leaves
            found = gradient(loss, inputs, problem.name, create_graph=differentiable)
        own = {k: found[k] for k in leaves if k in found}
        if problem not in self._updates and self._shares(problem, displaced, frame):
            total = {k: g.detach() for k, g in own.items()}
            self._updates[problem] = Update(loss.detach(), detached(metrics), total, written)

        def objective(
            other: Tensors, inner: int = 0, moved: Tensors | None = None, kept: bool = True
        ) -> Tensor:
            del kept  # here all are
            at = cut.frame.below(
                problem,
                differentiable=differentiable,
                displaced=True,
                inner=inner,
                wide=self.widens(problem, further=True),
            )
            scope = self.scope(at, {**beside, **other}, cut.find, cut.moved(moved))
            return split_loss(self.evaluate(problem, scope)[0], problem.name)[0]

        return Response(
            name=problem.name,
            value=leaves if torch.is_grad_enabled() else {k: t.detach() for k, t in value.items()},
            leaves=leaves,
            gradient=own,
            arguments=arguments,
            argument_gradient={k: found[k] for k in arguments if k in found},
            parameters=self.parameters[problem],
            optimizer=problem.optimizer,
            objective=objective,
            # The gradient at the standing values, from which an optimum follows.
            reference=self.update(problem).gradient if follows else None,
            upstream={**cut.originals, **value},
            seed=self.seed(problem, 0),
            solved=functools.partial(self.solved, problem),
            parts=parts_of(self.evaluator, problem),
            **on_ranks(self.evaluator),
        )


def _leaves(value: Tensors) -> Tensors:
    """What is differentiated by: aliases under grad mode, of which the value's graph goes on."""
    connected = torch.is_grad_enabled()
    return {
        k: t.view_as(t) if connected and t.requires_grad else t.detach().requires_grad_()
        for k, t in value.items()
    }

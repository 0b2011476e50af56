"""Solutions of several steps, as functions that autograd goes back through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._evaluation.loss import split_loss
from .._graph.game import Game, Table
from .._graph.problem import Problem
from .._tensors import Tensors
from .._variable import Variable
from ..hypergrad.interface import Response
from .scope import Cut, Scope

if TYPE_CHECKING:
    from .total import TotalObjectives

__all__ = ["Tracer", "Trajectory"]


@dataclass
class Trajectory:
    """Where the steps of one problem lead, at the standing values of all that is above.

    Attributes:
        value: the variables after the last step.
        state: the optimizer's state after it.
        losses: of each step.
        metrics: of the first.
        written: the buffers after it.
        starts: those before each step, from which a segment is computed again.
    """

    value: Tensors = field(default_factory=dict)
    state: Any = None
    losses: list[Tensor] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    written: dict[Any, list[Tensor]] = field(default_factory=dict)
    starts: list[dict[Any, list[Tensor]]] = field(default_factory=list)


class Tracer:
    """Takes the steps of problems whose methods take several, and of games.

    Args:
        total: the total objectives of the step; what stands still leaves its trajectory there.
    """

    def __init__(self, total: TotalObjectives) -> None:
        self.total = total
        self._played: dict[tuple[Game, Scope], Tensors] = {}

    def trace(self, problem: Problem, scope: Scope, constant: bool) -> Tensors:
        """A problem's solution, differentiable by itself.

        Args:
            problem: the problem.
            scope: the reader's.
            constant: whether no gradient will come back.

        Returns:
            Tensors by key.
        """
        if problem not in self.total.graph.games:
            return self._steps(problem, scope, constant)
        game = self.total.graph.games[problem]
        if (game, scope) not in self._played:  # the players move together: once for all of them
            self._played[game, scope] = self._play(game, scope)
        values = self._played[game, scope]
        own = {k: t for k, t in values.items() if k[0] in problem.over}
        return {k: t.detach() for k, t in own.items()} if constant else own

    def _steps(self, problem: Problem, scope: Scope, constant: bool) -> Tensors:
        method = self.total.graph.methods[problem]
        cut = self._cut(problem, scope, constant, method.reads)
        trajectory = Trajectory()
        response = self._response(problem, cut, self._objective(problem, cut, trajectory))
        response.arguments.update(self._sources(cut, method.reads))
        with torch.set_grad_enabled(not constant):
            value, trajectory.state = method.trace(response)
        if not self.total.displaced_for(problem, scope):
            trajectory.value = {k: t.detach() for k, t in value.items()}
            self.total.trajectories.setdefault(problem, trajectory)
        return value

    def _play(self, game: Game, scope: Scope) -> Tensors:
        methods = [self.total.graph.methods[p] for p in game.players]
        constant = not (torch.is_grad_enabled() and any(m.responds for m in methods))
        cut = self._cut(game.players[0], scope, constant)
        trajectories = {p: Trajectory() for p in game.players}
        # Buffers as the players that have moved left them: there the others find them.
        buffers: dict[Any, list[Tensor]] = {}
        responses = {
            p: self._response(p, cut, self._objective(p, cut, own, buffers))
            for p, own in trajectories.items()
        }
        table = Table(responses, lambda p: buffers.update(trajectories[p].written))
        assert game.play is not None
        with torch.set_grad_enabled(not constant):
            game.play.run(table)
        if not self.total.displaced_for(game.players[0], scope):
            for p, trajectory in trajectories.items():
                trajectory.state = table.states[p]
                trajectory.value = {k: table.values[k].detach() for k in responses[p].value}
                self.total.trajectories.setdefault(p, trajectory)
        return table.values

    def _cut(
        self, problem: Problem, scope: Scope, constant: bool, reads: Sequence[Variable] = ()
    ) -> Cut:
        cut = Cut(scope, "constant" if constant else "alias")
        for source in [*self.total.graph.cuts(problem), *reads]:
            cut.value(source)
        return cut

    def _objective(
        self,
        problem: Problem,
        cut: Cut,
        own: Trajectory,
        buffers: Mapping[Any, list[Tensor]] | None = None,
    ) -> Callable[..., Tensor]:
        """The problem's objective inside the steps; `buffers` are those of a game."""

        def objective(other: Tensors, inner: int = 0, arguments: Tensors | None = None) -> Tensor:
            at = Scope(self.total, problem, other, cut.moved(arguments) if arguments else cut,
                       differentiable=True, displaced=True, inner=inner)  # fmt: skip
            if len(own.starts) == inner:
                own.starts.append(own.written)
            start = own.starts[inner] if buffers is None else buffers
            result, written = self.total.evaluate(problem, at, owner=problem.over, start=start)
            loss, metrics = split_loss(result, problem.name)
            # Without a game there is one evaluation a step, but where a segment is computed again.
            if buffers is not None or len(own.losses) == inner:
                own.metrics = own.metrics if own.losses else metrics
                own.losses.append(loss.detach())
                own.written = written
            return loss

        return objective

    def _response(self, problem: Problem, cut: Cut, objective: Callable[..., Tensor]) -> Response:
        return Response(
            name=problem.name,
            value=self.total.standing(problem),
            leaves={},
            gradient={},
            arguments=dict(cut.arguments),
            argument_gradient={},
            parameters=self.total.parameters[problem],
            optimizer=problem.optimizer,
            objective=objective,
        )

    def _sources(self, cut: Cut, variables: Sequence[Variable]) -> Tensors:
        return {(v, name): t for v in variables for name, t in cut.value(v).items()}

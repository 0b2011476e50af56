"""Solutions of several steps, as functions that autograd goes back through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._evaluation.loss import split_loss
from .._graph.game import Game, Table
from .._graph.problem import Problem
from .._tensors import Tensors, continuous
from .._variable import Variable
from ..hypergrad.interface import Response
from ..optim import State
from .evaluations import Evaluations
from .records import detached
from .scope import Cut, Scope

__all__ = ["Trajectory", "trace"]


@dataclass
class Trajectory:
    """Where the steps of one problem lead, at the standing values of all that is above.

    It has no graph: the steps' own callbacks refer to it.

    Attributes:
        value: the variables after the last step.
        state: the optimizer's state after it.
        losses: of each step.
        metrics: of the first.
        written: the buffers after it.
        starts: those before each step, from which a segment is computed again.
    """

    value: Tensors = field(default_factory=dict)
    state: State = field(default_factory=dict)
    losses: list[Tensor] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    written: dict[Any, list[Tensor]] = field(default_factory=dict)
    starts: list[dict[Any, list[Tensor]]] = field(default_factory=list)

    @property
    def numbers(self) -> Tensors:
        """Those of the value that may be other than finite: a frozen index may not."""
        return {k: t for k, t in self.value.items() if continuous(t)}

    def arrive(self, value: Tensors, state: State) -> None:
        """Note where the steps have led.

        Args:
            value: of the variables, by key.
            state: of the optimizer, by key and name.
        """
        self.value = {k: t.detach() for k, t in value.items()}
        self.state = {k: {n: t.detach() for n, t in held.items()} for k, held in state.items()}


def trace(
    evaluations: Evaluations, problem: Problem, scope: Scope, constant: bool
) -> tuple[Tensors, dict[Problem, Trajectory]]:
    """The solution of a problem whose method takes several steps, or of a player of a game.

    Args:
        evaluations: of the step.
        problem: the problem.
        scope: the reader's.
        constant: whether no gradient will come back.

    Returns:
        Tensors by key, differentiable by themselves; and the trajectories taken on the way.
    """
    game = evaluations.graph.games.get(problem)
    if game is None:
        value, trajectory = _steps(evaluations, problem, scope, constant)
        return value, {problem: trajectory}
    taken: dict[Problem, Trajectory] = {}
    if game not in scope.played:  # the players move together: once for all of them
        scope.played[game], taken = _play(evaluations, game, scope)
    own = {k: t for k, t in scope.played[game].items() if k[0] in problem.over}
    return {k: t.detach() for k, t in own.items()} if constant else own, taken


def _steps(
    evaluations: Evaluations, problem: Problem, scope: Scope, constant: bool
) -> tuple[Tensors, Trajectory]:
    method = evaluations.graph.methods[problem]
    cut = _cut(evaluations, problem, scope, constant, method.reads)
    trajectory = Trajectory()
    objective = _objective(evaluations, problem, cut, trajectory)
    response = _response(evaluations, problem, cut, objective)
    for v in method.reads:  # frozen parameters of theirs, too
        held = {n: p.detach() for n, p in evaluations.evaluator.parameters(v).items()}
        response.arguments.update({(v, n): t for n, t in {**held, **cut.value(v)}.items()})
    if method.reads:
        response.resting = {
            (v, n): p.detach()
            for v in problem.over
            for n, p in evaluations.evaluator.parameters(v).items()
            if (v, n) not in response.value
        }
    with torch.set_grad_enabled(not constant):
        value, state = method.trace(response)
    trajectory.arrive(value, state)
    return value, trajectory


def _play(
    evaluations: Evaluations, game: Game, scope: Scope
) -> tuple[Tensors, dict[Problem, Trajectory]]:
    methods = [evaluations.graph.methods[p] for p in game.players]
    constant = not (torch.is_grad_enabled() and any(m.responds for m in methods))
    cut = _cut(evaluations, game.players[0], scope, constant)
    trajectories = {p: Trajectory() for p in game.players}
    # Buffers as the players that have moved left them: there the others find them.
    buffers: dict[Any, list[Tensor]] = {}
    responses = {
        p: _response(evaluations, p, cut, _objective(evaluations, p, cut, own, buffers))
        for p, own in trajectories.items()
    }
    table = Table(responses, lambda p: buffers.update(trajectories[p].written))
    assert game.play is not None
    with torch.set_grad_enabled(not constant):
        game.play.run(table)
    for p, trajectory in trajectories.items():
        trajectory.arrive({k: table.values[k] for k in responses[p].value}, table.states[p])
    return table.values, trajectories


def _cut(
    evaluations: Evaluations,
    problem: Problem,
    scope: Scope,
    constant: bool,
    reads: Sequence[Variable] = (),
) -> Cut:
    cuts = evaluations.graph.cuts(problem, evaluations.dormant)
    return Cut(scope, dict.fromkeys([*cuts, *reads]), "constant" if constant else "alias")


def _objective(
    evaluations: Evaluations,
    problem: Problem,
    cut: Cut,
    own: Trajectory,
    buffers: Mapping[Any, list[Tensor]] | None = None,
) -> Callable[..., Tensor]:
    """The problem's objective inside the steps; `buffers` are those of a game."""

    def objective(other: Tensors, inner: int = 0, arguments: Tensors | None = None) -> Tensor:
        frame = cut.frame.below(problem, differentiable=True, displaced=True, inner=inner)
        at = evaluations.scope(frame, other, cut.find, cut.moved(arguments))
        if len(own.starts) == inner:
            own.starts.append(own.written)
        start = own.starts[inner] if buffers is None else buffers
        result, written = evaluations.evaluate(problem, at, owner=problem.over, start=start)
        loss, metrics = split_loss(result, problem.name)
        # Without a game there is one evaluation a step, but where a segment is computed again.
        if buffers is not None or len(own.losses) == inner:
            if not own.losses:
                own.metrics = detached(metrics)
            own.losses.append(loss.detach())
            evaluations.noted.append((problem, own.losses[-1]))
            own.written = written
        return loss

    return objective


def _response(
    evaluations: Evaluations, problem: Problem, cut: Cut, objective: Callable[..., Tensor]
) -> Response:
    numbers = evaluations.graph.numbers.get(problem, {})
    taken = {n.key: cut.value(n.key[0])[n.key[1]] for n in numbers.values()}
    return Response(
        name=problem.name,
        value=evaluations.standing(problem),
        leaves={},
        gradient={},
        arguments={**cut.arguments, **taken},
        argument_gradient={},
        parameters=evaluations.parameters[problem],
        optimizer=problem.optimizer,
        objective=objective,
        numbers=numbers,
    )

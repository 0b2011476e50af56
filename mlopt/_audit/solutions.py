"""What readers see of a lower problem, method by method, from the definitions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._graph.game import Game, Played
from .._graph.problem import Problem
from .._graph.trained import trainable
from .._tensors import Tensors, like, real
from ..hypergrad import Implicit, OneStep, Sama, StopGradient, Unrolled, ZerothOrder
from ..hypergrad.interface import Response
from ..optim import rule_of
from .equilibria import conditions, solved_with
from .optima import NoOracle
from .values import Frame, Values

__all__ = ["solution", "unwrapped"]


def solution(values: Values, problem: Problem, frame: Frame, order: int) -> Tensors:
    """What readers see of a problem, differentiable `order` times.

    Args:
        values: of the graph.
        problem: the problem.
        frame: of the reader.
        order: how often.

    Returns:
        Tensors by key.

    Raises:
        NoOracle: the method is not known here and derivatives are wanted, or no optimum is
            found.
    """
    method = unwrapped(values.graph.methods[problem])
    given = type(method).solution
    with torch.set_grad_enabled(order > 0):
        if isinstance(method, Played):
            return _played(values, problem, method.game, frame, order)
        if given is OneStep.solution:
            return _ahead(values, problem, method, frame, order)
        if given is Sama.solution:
            return _steps(values, problem, frame, order, 1)
        if given is Unrolled.solution:
            return _steps(values, problem, frame, order, method.steps, method)
        if given is Implicit.solution:
            return _optimum(values, problem, frame, order)
        return _given(values, problem, method, frame, order)


def _ahead(values: Values, problem: Problem, method: Any, frame: Frame, order: int) -> Tensors:
    w = values.standing(problem)
    _, g, _ = values.slope(problem, w, frame, order)
    if method.lr is not None:
        return {**w, **{k: w[k] - method.lr * t for k, t in g.items()}}
    # of torch 2.6 AdamW is no Adam
    if not isinstance(problem.optimizer, torch.optim.Adam | torch.optim.AdamW):
        return _update(values, problem, frame, w, g, None)[0]
    held = values.hold((frame.path, problem, "gradient"), g)
    return {**w, **_adam(problem.optimizer, trainable(problem), w, g, held)}


def _update(
    values: Values, problem: Problem, frame: Frame, w: Tensors, g: Tensors, state: Any
) -> tuple[Tensors, Any]:
    """One step of its optimizer, whose numbers that are variables are as the reader sees them."""
    rule, parameters = rule_of(problem.optimizer, problem.name), trainable(problem)
    if state is None:
        state = rule.begin(problem.optimizer, parameters)
    numbers = {}
    for held, number in values.graph.numbers.get(problem, {}).items():
        source, name = number.key
        seen = frame.value(source)[name]
        numbers[held] = values.hold((frame.path, problem, held), seen) if number.stopped else seen
    return rule.step(problem.optimizer, parameters, w, g, state, numbers)


def _steps(
    values: Values, problem: Problem, frame: Frame, order: int, steps: int, method: Any = None
) -> Tensors:
    """Several updates of the problem's own optimizer."""
    w, state, written, rest = values.standing(problem), None, None, Tensors()
    if method is not None and method.init is not None:
        held = {name: p.detach() for name, p in method.init.named_parameters().items()}
        value = {**held, **frame.value(method.init)}
        names = [(v, name) for v in problem.over for name in v.named_parameters()]
        rest = {k: value[k[1]] for k in names if k not in w}
        w, state = {k: value[k[1]] for k in w}, {}
    constant = max(0, steps - method.truncate) if method and method.truncate else 0
    for k in range(steps):
        if constant and k == constant:
            w, state = values.hold((frame.path, problem, "truncated"), (w, state))
        at = order if k >= constant else 0
        _, g, written = values.slope(problem, w, frame, at, k, written, rest)
        w, state = _update(values, problem, frame, w, g, state)
    return {**rest, **w}


def _played(values: Values, problem: Problem, game: Game, frame: Frame, order: int) -> Tensors:
    """Where a player stands after the moves of its whole game."""
    if (game, order) not in frame.played:
        board: Any = _Board(values, game, frame, order)
        assert game.play is not None
        game.play.run(board)
        frame.played[game, order] = board.values
    return {k: t for k, t in frame.played[game, order].items() if k[0] in problem.over}


class _Board:
    """The table at which a game is played, once more: its moves from the definitions."""

    def __init__(self, values: Values, game: Game, frame: Frame, order: int) -> None:
        self.players = game.players
        self.values: Tensors = {k: t for p in self.players for k, t in values.standing(p).items()}
        self._values, self._frame, self._order = values, frame, order
        self._states: dict[Problem, Any] = dict.fromkeys(self.players)
        self._taken = dict.fromkeys(self.players, 0)
        self._buffers: dict[Any, Any] = {}

    def ahead(self, *players: Problem) -> Tensors:
        values = dict(self.values)
        for p in players:
            values.update(self._stepped(p, self.values)[0])
        return values

    def step(self, *players: Problem, at: Tensors | None = None) -> None:
        taken = [(p, *self._stepped(p, at or self.values)) for p in players]
        for p, value, state, written in taken:
            self.values = {**self.values, **value}
            self._states[p] = state
            self._taken[p] += 1
            self._buffers.update(written)

    def _stepped(self, player: Problem, at: Tensors) -> tuple[Tensors, Any, Any]:
        mine = {k: t for k, t in at.items() if k[0] in player.over}
        others = {k: t for k, t in at.items() if k not in mine}
        values = self._values
        _, g, written = values.slope(
            player, mine, self._frame, self._order, self._taken[player], self._buffers, others
        )
        stands = {k: self.values[k] for k in mine}
        value, state = _update(values, player, self._frame, stands, g, self._states[player])
        return value, state, written


def _given(values: Values, problem: Problem, method: Any, frame: Frame, order: int) -> Tensors:
    """A method that is not known here: its own `solution`, of which only the value is used."""
    if order or method.traced:
        raise NoOracle(f"{type(method).__name__} is known to the audit by its values alone")
    w = values.standing(problem)
    leaves, g, _ = values.slope(problem, w, frame, 0)

    def objective(other: Tensors, inner: int = 0, arguments: Any = None) -> Tensor:
        del arguments
        return values.objective(frame.below(problem, other, inner, 1))[0]

    response = Response(
        problem.name, w, leaves, g, {}, {}, trainable(problem), problem.optimizer, objective,
        seed=values.seed(problem, 0),
    )  # fmt: skip
    return method.solution(response)


def _optimum(values: Values, problem: Problem, frame: Frame, order: int) -> Tensors:
    """Where dF/dw is zero (or what `targets` says), found from the standing value."""
    if not values.settles:
        return values.standing(problem)
    players = solved_with(values, problem)  # in a game: it is zero for all of them
    if (players, order) not in frame.played:

        def slope(w: Tensors, order: int) -> tuple[Tensors, Tensors]:
            return conditions(values, players, w, frame, order)

        standing = {k: t for p in players for k, t in values.standing(p).items()}
        target = values.target(players)
        optimum = values.optimum(players)
        w = optimum.find(slope, standing, target)
        frame.played[players, order] = optimum.differentiable(slope, w, target, order)
    return {k: t for k, t in frame.played[players, order].items() if k[0] in problem.over}


def unwrapped(method: Any) -> Any:
    """The method whose solution is read: inside of `StopGradient`, `ZerothOrder` and probes."""
    while True:
        if isinstance(method, StopGradient | ZerothOrder):
            method = method.method
        elif hasattr(method, "probed"):
            method = method.probed
        else:
            return method


def _adam(optimizer: Any, parameters: Tensors, w: Tensors, g: Tensors, held: Tensors) -> Tensors:
    """Adam's and AdamW's step with the second moment of a held gradient, as `OneStep` has it."""
    moved: Tensors = {}
    for key, gradient in g.items():
        p, value, gradient, still = parameters[key], *map(real, (w[key], gradient, held[key]))
        options = next(o for o in optimizer.param_groups if any(q is p for q in o["params"]))
        (b1, b2), state = options["betas"], optimizer.state.get(p, {})
        state = {name: real(t) if isinstance(t, Tensor) else t for name, t in state.items()}
        decoupled = options.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW))
        sign, decay = -1.0 if options["maximize"] else 1.0, options["weight_decay"]
        coupled = 0.0 if decoupled else decay * value
        count = float(state.get("step", 0)) + 1
        zero = torch.zeros_like(value)
        first = b1 * state.get("exp_avg", zero) + (1 - b1) * (sign * gradient + coupled)
        second = b2 * state.get("exp_avg_sq", zero) + (1 - b2) * (sign * still + coupled) ** 2
        if options["amsgrad"]:
            second = torch.maximum(second, state.get("max_exp_avg_sq", second))
        root = (second / (1 - b2**count)).sqrt() + options["eps"]
        # where no gradient ever came the step is defined as constant
        first = torch.where(second > 0, first, first.detach())
        shrunk = value * (1 - options["lr"] * decay) if decoupled else value
        moved[key] = like(shrunk - options["lr"] / (1 - b1**count) * first / root, w[key])
    return moved

"""The oracle of nested levels, with games: players of one level, moved by their definitions.

    Simultaneous     x_i = w_i - lr dF_i/dw_i(w_i; the others' standing values, above)
    Turns            one player after the other, each at the others' newest values
    Rounds           all players together, several times
    Extra            v_i as Simultaneous; then x_i = w_i - lr dF_i/dw_i(v; above)

A player's gradient is partial: by its own tensors, even where the value of another was made from
them. All is plain autograd, with the optimizers' rules written out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from nested_oracle import Fixed, Nested, Stopped, _Scope
from nested_oracle import _Standing as Standing
from points import Point, as_leaves, derivatives, detached
from torch import Tensor

import mlopt

__all__ = ["Extra", "Played", "Rounds", "Turns", "update"]


@dataclass(frozen=True)
class Turns:
    """Pairs of a player and its number of steps, in order."""

    turns: tuple[tuple[Any, int], ...]


@dataclass(frozen=True)
class Rounds:
    """So many steps of all players together."""

    count: int


@dataclass(frozen=True)
class Extra:
    """Two gradients, one step."""


class Played(Nested):
    """Total derivatives of a list of problems, signals and games.

    Args:
        entries: as given to the engine, lowest first.
        kinds: of problems as in `Nested`; of a game that takes the steps `Turns`, `Rounds` or
            `Extra`, and of its players `Stopped(None)` or `Fixed()` where readers see no gradient,
            or no move.
        batch: (node) -> its batch.
        seed: (node) -> the seed of its evaluations.
    """

    def __init__(self, entries: list[Any], kinds: dict[Any, Any], **hooks: Any) -> None:
        games = [e for e in entries if isinstance(e, mlopt.Game)]
        nodes = [n for e in entries for n in (e.players if e in games else (e,))]
        super().__init__(nodes, kinds, **hooks)
        self.games = {p: game for game in games for p in game.players}
        for p, game in self.games.items():
            self.place[p] = self.place[game.players[0]]
        self._moved: list[tuple[Any, Any, dict[Any, Point]]] = []

    def evaluate(self, problem: Any, at: Point | None = None) -> tuple[Tensor, Point]:
        leaves = as_leaves(self.standing(problem) if at is None else at)
        scope = self._frame(Standing(self), problem, leaves, self._at_rest(problem), 1)
        return scope.objective(), leaves

    def solve(self, problem: Any, scope: Any) -> Point:
        if problem not in self.games:
            return super().solve(problem, scope)
        game, kind = self.games[problem], self.kinds.get(problem)
        if game not in self.kinds:
            return super().solve(problem, scope)
        if isinstance(kind, Fixed):
            return self.standing(problem)
        known = [m for m in self._moved if m[0] is game and m[1] is scope]
        if not known:
            known = [(game, scope, self._play(game, self.kinds[game], scope))]
            self._moved += known
        own = known[0][2][problem]
        return detached(own) if isinstance(kind, Stopped) else own

    def _play(self, game: Any, kind: Any, scope: Any) -> dict[Any, Point]:
        points = {p: self.standing(p) for p in game.players}
        states: dict[Any, dict[Any, Tensor]] = {}

        def step(p: Any, at: dict[Any, Point]) -> Point:
            gradient = self._partial(p, at, scope)
            return {
                (v, n): update(p.optimizer, v.named_parameters()[n], points[p][v, n], g, states)
                for (v, n), g in gradient.items()
            }

        if isinstance(kind, Turns):
            for p, count in kind.turns:
                for _ in range(count):
                    points[p] = {**points[p], **step(p, points)}
            return points
        if isinstance(kind, Rounds):
            for _ in range(kind.count):
                points = {p: {**points[p], **step(p, points)} for p in points}
            return points
        ahead = {p: {**points[p], **step(p, points)} for p in points}
        states.clear()  # what the look-ahead did to the optimizers is forgotten
        return {p: {**points[p], **step(p, ahead)} for p in points}

    def _partial(self, p: Any, at: dict[Any, Point], scope: Any) -> dict[Any, Tensor]:
        """dF_p/dw_p where all players are as `at` says."""
        own = {k: t.view_as(t) if t.requires_grad else t.detach().requires_grad_()
               for k, t in at[p].items()}  # fmt: skip
        others = {q: point for q, point in at.items() if q is not p}
        loss = self._frame(scope, p, own, others, scope.order + 1).objective()
        return {k: g for k, g in derivatives(loss, own).items() if g is not None}

    def _gradient(self, problem: Any, w: Point, scope: Any, order: int) -> Any:
        w = {k: t if t.requires_grad else t.detach().requires_grad_() for k, t in w.items()}
        loss = self._frame(scope, problem, w, self._at_rest(problem), order).objective()
        return w, derivatives(loss, w)

    def _at_rest(self, problem: Any) -> dict[Any, Point]:
        players = self.games[problem].players if problem in self.games else ()
        return {q: self.standing(q) for q in players if q is not problem}

    def _frame(self, above: Any, p: Any, own: Point, others: dict[Any, Point], order: int) -> Any:
        scope = _Scope(self, above, p, own, order, False)
        scope.solved.update(others)
        return scope


def update(
    optimizer: Any, parameter: Tensor, w: Tensor, g: Tensor, states: dict[Any, Any]
) -> Tensor:
    """One step of torch's SGD or Adam; what the optimizer holds is read once, then `states`."""
    (o,) = [o for o in optimizer.param_groups if any(p is parameter for p in o["params"])]
    state = states.setdefault(parameter, dict(optimizer.state.get(parameter, {})))
    d = g + o["weight_decay"] * w
    if isinstance(optimizer, torch.optim.SGD):
        if o["momentum"] == 0:
            return w - o["lr"] * d
        past = state.get("momentum_buffer")
        state["momentum_buffer"] = b = d if past is None else o["momentum"] * past + d
        return w - o["lr"] * (d + o["momentum"] * b if o["nesterov"] else b)
    b1, b2 = o["betas"]
    state["step"] = t = float(state.get("step", 0.0)) + 1
    state["exp_avg"] = m = b1 * state.get("exp_avg", 0.0) + (1 - b1) * d
    state["exp_avg_sq"] = v = b2 * state.get("exp_avg_sq", 0.0) + (1 - b2) * d**2
    return w - o["lr"] * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + o["eps"])

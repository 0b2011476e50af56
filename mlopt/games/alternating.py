"""`Alternating`: the players in turns, each at the others' newest values."""

from __future__ import annotations

from collections.abc import Sequence

from .._errors import GraphError
from .._graph.game import AbstractPlay, Table
from .._graph.problem import Problem

__all__ = ["Alternating"]


class Alternating(AbstractPlay):
    """Turns in order, of one or several optimizer steps each: `Alternating((d, 5), (g, 1))`.

        w_d <- w_d - lr dF_d/dw_d(w_d, w_g; r)    five times, then    w_g <- w_g - lr dF_g/dw_g

    A player with data takes a new batch for each of its steps; the first takes the step's own. A
    higher problem differentiates exactly through all steps and through what the players read of
    each other's new values, while the players themselves take them as they are.

    Do not use it with many steps of a large network under a leader: the graph of all steps is kept.
    Where no higher problem differentiates through the game none is.

    Args:
        turns: pairs of a player and its number of steps.

    Raises:
        GraphError: a turn is not such a pair.
    """

    def __init__(self, *turns: tuple[Problem, int]) -> None:
        for turn in turns:
            if not (
                isinstance(turn, tuple)
                and len(turn) == 2
                and isinstance(turn[0], Problem)
                and isinstance(turn[1], int)
                and not isinstance(turn[1], bool)
                and turn[1] > 0
            ):
                raise GraphError(f"Alternating(turns): {turn!r} is not a pair (player, steps > 0).")
        self.turns = turns

    @property
    def traced(self) -> bool:
        return True

    def check(self, players: Sequence[Problem]) -> None:
        named = [p for p, _ in self.turns]
        for p in players:
            if p not in named:
                raise GraphError(f"Alternating: {p.name} is in the game and has no turn.")
        for p in named:
            if p not in players:
                raise GraphError(f"Alternating: {p.name} has a turn and is not in the game.")

    def run(self, table: Table) -> None:
        for player, steps in self.turns:
            for _ in range(steps):
                table.step(player)

    def __repr__(self) -> str:
        turns = ", ".join(f"({p.name}, {n})" for p, n in self.turns)
        return f"Alternating({turns})"

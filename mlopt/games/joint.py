"""`Joint`: several steps of all players together."""

from __future__ import annotations

from dataclasses import dataclass

from .._arguments import check_fields, from_one
from .._errors import GraphError
from .._graph.game import AbstractPlay, Table

__all__ = ["Joint"]


@dataclass(frozen=True)
class Joint(AbstractPlay):
    """Several rounds in which every player takes a step from where the round began.

        w_i <- w_i - lr dF_i/dw_i(w; r)    for all i at once, `steps` times

    By the players' optimizers. With data each round takes a new batch, the same for all players
    that read its stream; the first takes the step's own. A higher problem differentiates exactly
    through all rounds, where `Simultaneous` leaves each player to its own method, at constants.

    Do not use it with many rounds of large networks under a leader: the graph of all steps is kept.
    Nor for zero-sum games whose players hold each other in balance: see `Extragradient`.

    Args:
        steps: the number of rounds.

    Raises:
        GraphError: steps is not a positive whole number.
    """

    steps: int = 1

    joint = True

    def __post_init__(self) -> None:
        check_fields(self, GraphError, steps=from_one)

    @property
    def traced(self) -> bool:
        return True

    def run(self, table: Table) -> None:
        for _ in range(self.steps):
            table.step(*table.players)

"""`Ahead`: what lives on different ranks is evaluated at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from .._sweep.ascent import Ascent
from .._sweep.waves import upwards
from .operations import Evaluate, Operation, Total

__all__ = ["Ahead"]


class Ahead:
    """Where nodes have homes, makes all evaluations at one point in waves, when the first is due.

    What they gave is reported in the order of the operations all the same.

    Args:
        ascent: takes the evaluations.
    """

    def __init__(self, ascent: Ascent) -> None:
        self._ascent = ascent
        self._made: set[int] = set()

    def look(self, operations: Sequence[Operation], at: int) -> None:
        """Make what can be made with an evaluation that is due.

        Args:
            operations: of a plan.
            at: the place of the evaluation.
        """
        ascent, ranks = self._ascent, self._ascent.evaluator.ranks
        if ranks is None or not ranks.homes or id(operations[at]) in self._made:
            return
        here = takewhile(lambda o: isinstance(o, Evaluate | Total), operations[at:])
        due = {o.node: o for o in here if isinstance(o, Evaluate)}
        for wave in upwards(ascent.graph, [*due]):
            with ranks.wave():
                for node in wave:
                    ascent.evaluate(due[node])
            ascent.arrive()
        self._made = set(map(id, due.values()))

    def evaluate(self, operation: Evaluate) -> None:
        """Make an evaluation, unless it has been made.

        Args:
            operation: that is due.
        """
        if id(operation) not in self._made:
            self._ascent.evaluate(operation)

"""Schedules: in which order the updates of one step are computed and committed."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._arguments import check_fields, checked, from_one, in_body, positive
from .._errors import GraphError
from .._graph.brief import brief
from .._graph.graph import Graph
from .._graph.problem import Problem
from .builder import Builder

__all__ = [
    "AbstractSchedule",
    "Alternate",
    "Sequential",
    "Simultaneous",
    "Until",
    "UpperFirst",
    "check_turns",
    "due",
    "turn_of",
]


class AbstractSchedule(abc.ABC):
    """An order of updates, as an immutable object."""

    @abc.abstractmethod
    def check(self, graph: Graph) -> None:
        """Raise a `GraphError` if the schedule cannot run this graph.

        Args:
            graph: the graph.
        """

    @abc.abstractmethod
    def compose(self, builder: Builder, active: Sequence[Problem]) -> None:
        """Write one step.

        Args:
            builder: takes the operations.
            active: the problems that are updated in this step, lowest first.
        """


@dataclass(frozen=True)
class Simultaneous(AbstractSchedule):
    """All updates from the step's start, committed together at its end: the default.

    With `OneStep` this is Algorithm 1 of LFM-CW and of SGL: every level reads the look-aheads of
    those below it.
    """

    def check(self, graph: Graph) -> None:
        del graph

    def compose(self, builder: Builder, active: Sequence[Problem]) -> None:
        builder.totals(active)
        repeated = [p for p in active if p.repeat > 1]
        for problem in repeated:
            builder.commit(problem)
            builder.repeats(problem)
        builder.decide()
        for problem in active:
            if problem not in repeated:
                builder.commit(problem)


@dataclass(frozen=True)
class Sequential(AbstractSchedule):
    """Each update is committed before the next is computed, from the lowest problem to the highest.

    The order of Algorithm 1 in first order, where every lower problem is read `Frozen`: readers see
    the new values. A method that looks ahead shows them the new values anyway, so a graph with one
    is
    refused: use `Simultaneous`.
    """

    def check(self, graph: Graph) -> None:
        for reader in graph.nodes:
            for read in reader.reads:
                below = graph.source_node(reader, read.source)
                if isinstance(below, Problem) and graph.methods[below].moves:
                    raise GraphError(
                        f"Sequential(): {reader.name} reads the solution of {below.name} by "
                        f"{brief(graph.methods[below])}, which is taken before the commit. "
                        "Use Simultaneous(), or Frozen() on every lower problem."
                    )

    def compose(self, builder: Builder, active: Sequence[Problem]) -> None:
        _one_by_one(builder, active)


@dataclass(frozen=True)
class UpperFirst(AbstractSchedule):
    """Each update is committed before the next is computed, from the highest problem to the lowest.

    DARTS' own order: a virtual weight step, the architecture's step, then the real weight step on
    the same batch at the new architecture. Costs the evaluation of each problem whose reads have
    changed once more.
    """

    def check(self, graph: Graph) -> None:
        del graph

    def compose(self, builder: Builder, active: Sequence[Problem]) -> None:
        _one_by_one(builder, active[::-1])


def _one_by_one(builder: Builder, problems: Sequence[Problem]) -> None:
    """Each problem, or all players of a game, from what those before have left."""
    games = builder.graph.games
    for _, level in itertools.groupby(problems, key=lambda p: games.get(p, p)):
        players = list(level)
        builder.totals(players)
        for problem in players:
            builder.commit(problem)
            builder.repeats(problem)
    builder.decide()


@dataclass(frozen=True)
class Until:
    """Rounds of a turn of `Alternate` until a problem is solved: `(lower, Until(1e-6, most=500))`.

    A round is the last one when the 2-norm of the turn's total gradients, as taken before the
    round's update, is at most `tol`. That is asked of the device once a round. Use it with full
    batches: with others the gradient does not vanish at the optimum. The metrics say how many
    updates there were ("problem/rounds").

    Args:
        tol: the norm, an absolute one.
        most: rounds after which the turn ends anyway.

    Raises:
        GraphError: an option is not what it must be.
    """

    tol: float
    most: int = 1000

    def __post_init__(self) -> None:
        check_fields(self, GraphError, tol=positive, most=from_one)


class Alternate(AbstractSchedule):
    """Turns of several updates each: `Alternate((lower, 20), (upper, 1))` is one step.

    Every round of a turn takes new batches from the streams it reads; the first takes the step's
    own. All rounds are committed or, if anything is not finite, none.

    Args:
        turns: pairs of a problem (or a tuple of problems, updated together) and a number of rounds,
            or `Until(tol, most)`.
        same_batch: every round takes the step's own batches, as in meta-learning, where they are a
            task's.

    Raises:
        GraphError: a turn is not such a pair.
    """

    @checked(GraphError, turns=in_body)
    def __init__(
        self, *turns: tuple[Problem | tuple[Problem, ...], int | Until], same_batch: bool = False
    ) -> None:
        self.same_batch = same_batch
        self.turns = [turn_of("Alternate", turn) for turn in turns]
        if not self.turns:
            raise GraphError("Alternate() has no turn; give pairs (problem, number of rounds).")

    def check(self, graph: Graph) -> None:
        check_turns("Alternate", graph, self.turns)

    def compose(self, builder: Builder, active: Sequence[Problem]) -> None:
        drawn: set[object] = set()
        for problems, rounds in self.turns:
            chosen = [p for p in problems if p in active]
            until = rounds if isinstance(rounds, Until) else None
            most = rounds.most if isinstance(rounds, Until) else rounds
            checks = []
            for _ in range(most if chosen else 0):
                streams = dict.fromkeys(s for p in chosen for s in builder.streams(p))
                again = [s for s in streams if s in drawn and not self.same_batch]
                if again:
                    builder.draw(again)
                drawn.update(streams)
                builder.totals(chosen)
                builder.iterate()
                if until:
                    checks.append(builder.settled(chosen, until.tol))
                for p in chosen:
                    builder.commit(p)
            for check in checks:
                check.end = len(builder.operations)
        builder.decide()

    def __repr__(self) -> str:
        turns = ", ".join(f"({', '.join(p.name for p in ps)}, {n})" for ps, n in self.turns)
        return f"Alternate({turns})"


def turn_of(name: str, turn: Any) -> tuple[tuple[Problem, ...], int | Until]:
    """A turn as it was given: some problems, and how often they are updated.

    Args:
        name: of the schedule.
        turn: what was given.

    Returns:
        Both.

    Raises:
        GraphError: it is no turn.
    """
    if not (
        isinstance(turn, tuple)
        and len(turn) == 2
        and (isinstance(turn[1], Until) or (type(turn[1]) is int and turn[1] > 0))  # True is none
    ):
        raise GraphError(
            f"{name}: {turn!r} is not a pair (problem, number of rounds > 0, or Until)."
        )
    problems = turn[0] if isinstance(turn[0], tuple) else (turn[0],)
    if not all(isinstance(p, Problem) for p in problems):
        raise GraphError(f"{name}: {turn!r} does not name problems.")
    return problems, turn[1]


def check_turns(
    name: str, graph: Graph, turns: Sequence[tuple[tuple[Problem, ...], int | Until]]
) -> None:
    """Refuse turns that are not those of a graph.

    Args:
        name: of the schedule.
        graph: the graph.
        turns: of the schedule.

    Raises:
        GraphError: a problem is not in the graph, has none, or cannot be updated so.
    """
    named = {p for problems, _ in turns for p in problems}
    for p in named:
        if p not in graph.problems:
            raise GraphError(f"{name}: {p.name} is not in the engine's list.")
        if p.repeat > 1:
            raise GraphError(
                f"{name}: {p.name} has repeat={p.repeat}; give it more rounds instead."
            )
    for problems, rounds in turns:
        for p in problems:
            if isinstance(rounds, Until) and graph.methods[p].traced:
                raise GraphError(
                    f"{name}: {p.name} takes its steps by {graph.methods[p]}, whose number is "
                    "fixed; Until() cannot end them."
                )
        for p in problems:
            for q in graph.moving(p):
                if q not in problems:
                    raise GraphError(
                        f"{name}: {p.name} and {q.name} are players of a game that moves them "
                        "together; name both in one turn: ((..., ...), rounds)."
                    )
    for p in graph.problems:
        if p not in named and p.optimizer is not None:
            raise GraphError(f"{name}: {p.name} has no turn and would never be updated.")


def due(
    problems: Sequence[Problem], step: int, epoch: int
) -> tuple[tuple[Problem, ...], frozenset[Problem]]:
    """Which problems a step updates, and which wait for their start.

    Args:
        problems: of a graph.
        step: number of the step.
        epoch: in which it is taken.

    Returns:
        The former, in the order of the graph, and the latter.
    """
    waiting = [p for p in problems if p.start > epoch]
    active = [p for p in problems if p.optimizer is not None and step % p.every == 0]
    if waiting:
        active = [p for p in active if p not in waiting]
    return tuple(active), frozenset(waiting)

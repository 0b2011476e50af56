"""The operations of a step: what a plan is a list of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.relations import Sweep
from .._graph.stream import Stream
from .._sweep.records import Evaluation

__all__ = [
    "Anew",
    "Commit",
    "Decide",
    "Draw",
    "Evaluate",
    "Iterate",
    "Nest",
    "Operation",
    "Settled",
    "Total",
    "beside",
    "nests_from",
    "tried",
]


@dataclass
class Evaluate(Evaluation):
    """Evaluate a node at the current point.

    Attributes:
        together: the evaluations that are made as one with this one, itself among them, where it
            is one of a stack; made when the first of them is reached.
    """

    together: tuple[Evaluate, ...] = field(default=(), repr=False, compare=False)


@dataclass
class Total:
    """Take the whole gradient of a problem: its own, and by the sweep what comes from below."""

    problem: Problem
    sweep: Sweep


@dataclass
class Nest:
    """Take the whole gradient of a problem whose lower solutions must follow what moves.

    Attributes:
        problem: the problem.
        rounds: how often nodes have been committed or given new batches in this step, if ever.
        calls: evaluations of each node, as counted in a trial; None before it.
        backwards: backward passes, likewise.
    """

    problem: Problem
    rounds: Mapping[Node, int] = field(default_factory=dict)
    calls: Counter[Node] | None = None
    backwards: int = 0


@dataclass
class Iterate:
    """Take all steps of a problem whose method takes several, without committing them.

    Attributes:
        problem: the problem.
        rounds: as of `Nest`.
        calls: as of `Nest`.
        backwards: as of `Nest`.
    """

    problem: Problem
    rounds: Mapping[Node, int] = field(default_factory=dict)
    calls: Counter[Node] | None = None
    backwards: int = 0


@dataclass
class Anew:
    """What has followed is forgotten: in a trial, where a step would commit or draw.

    Attributes:
        commits: whether it would commit, before which the ranks of an engine settle accounts.
    """

    commits: bool = False


@dataclass
class Commit:
    """Update a problem's variables; after `early` ones something is computed that sees them."""

    problem: Problem
    early: bool
    forget: tuple[Node, ...]


@dataclass
class Draw:
    """Take a new batch from these streams, inside the step: for the readers, or for all (None)."""

    streams: tuple[Stream, ...]
    readers: tuple[Node, ...] | None
    forget: tuple[Node, ...]


@dataclass
class Settled:
    """If the total gradients of these problems are small together, go on at `end`.

    Attributes:
        problems: of one turn.
        tol: the 2-norm that counts as small.
        end: index of the operation after the turn.
    """

    problems: tuple[Problem, ...]
    tol: float
    end: int = 0


@dataclass
class Decide:
    """Everything is finite: go on; else undo what was committed and end the step."""


Operation = Evaluate | Total | Nest | Iterate | Anew | Commit | Draw | Settled | Decide


def beside(graph: Graph, operations: Sequence[Operation], at: int) -> list[Total]:
    """A total gradient that is taken, and those right behind it for others of its stack.

    Args:
        graph: the graph.
        operations: of a plan.
        at: the place of the first.

    Returns:
        They.
    """
    first = operations[at]
    assert isinstance(first, Total)
    stack = graph.stacks.get(first.problem)
    if stack is None:
        return [first]
    totals: list[Total] = []
    for operation in operations[at:]:
        if not (isinstance(operation, Total) and operation.problem in stack.members):
            break
        totals.append(operation)
    return totals


def nests_from(operations: Sequence[Operation], at: int) -> list[Nest]:
    """The updates of nested problems up to the next commit, from the highest down.

    Args:
        operations: of a plan.
        at: the place of the first.

    Returns:
        They.
    """
    nests: list[Nest] = []
    for operation in operations[at:]:
        if isinstance(operation, Anew | Commit | Draw | Settled | Decide):
            break
        if isinstance(operation, Nest):
            nests.insert(0, operation)
    return nests


def tried(operation: Operation) -> Operation | None:
    """What stands for an operation in a trial, which commits and draws nothing."""
    if isinstance(operation, Nest | Iterate):
        return operation
    early = isinstance(operation, Commit) and operation.early
    return Anew(early) if early or isinstance(operation, Draw) else None

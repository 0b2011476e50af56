"""What a step does, decided before it runs: a list of operations, and what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ._draw import brief
from ._graph import Graph, Sweep
from ._node import Node
from ._problem import Problem
from ._stream import Stream

__all__ = [
    "Builder",
    "Commit",
    "Decide",
    "Draw",
    "Evaluate",
    "Iterate",
    "Nest",
    "Plan",
    "Settled",
    "Total",
]


@dataclass
class Evaluate:
    """Evaluate a node at the current point.

    Attributes:
        node: the problem or signal.
        inner: index of the inner step, for the seed.
        wanted: sources that cotangents will be pulled back to.
        pulled: whether a sweep passes through the node's own value.
    """

    node: Node
    inner: int
    wanted: list[Any] = field(default_factory=list)
    pulled: bool = False


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
        calls: evaluations of each node, as counted in a trial; None before it.
        backwards: backward passes, likewise.
    """

    problem: Problem
    calls: Counter[Node] | None = None
    backwards: int = 0


@dataclass
class Iterate:
    """Take all steps of a problem whose method takes several, without committing them.

    Attributes:
        problem: the problem.
        calls: as of `Nest`.
        backwards: as of `Nest`.
    """

    problem: Problem
    calls: Counter[Node] | None = None
    backwards: int = 0


@dataclass
class Commit:
    """Update a problem's variables; `early` ones come before the decision and can be undone."""

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
    """Everything is finite: go on; else undo the early commits and end the step."""


Operation = Evaluate | Total | Nest | Iterate | Commit | Draw | Settled | Decide


class Builder:
    """Composes a step; a schedule drives it.

    What a node gave is kept until something it read has changed, so nothing is evaluated twice.

    Args:
        graph: the graph.
        dormant: problems before their start.
    """

    def __init__(self, graph: Graph, dormant: frozenset[Problem] = frozenset()) -> None:
        self.graph = graph
        self.dormant = dormant
        self.operations: list[Operation] = []
        self._current: dict[Node, Evaluate] = {}
        self._commits: dict[Node, int] = {}
        self._draws: dict[Node, int] = {}
        self._pending: dict[Problem, None] = {}
        self._decided = False

    def total(self, problem: Problem) -> None:
        """What a problem's update needs: its gradient, or all its steps."""
        if self.graph.methods[problem].traced:
            # The problems that read it take these very steps: they need not be taken twice.
            self._pending[problem] = None
        else:
            self.gradient(problem)

    def gradient(self, problem: Problem) -> None:
        """The whole gradient of a problem; evaluates what it needs and does not have."""
        if not self.graph.staged(problem, self.dormant):
            self.operations.append(Nest(problem))
            return
        sweep = self.graph.sweep(problem, self.dormant)
        for node in reversed(sweep.nodes):
            self._evaluate(node)
        self._evaluate(problem)
        for node, edges in sweep.edges.items():
            current = self._current[node]
            current.wanted.extend(s for s in edges if s not in current.wanted)
            current.pulled |= node is not problem
        self.operations.append(Total(problem, sweep))

    def commit(self, problem: Problem) -> None:
        """Update a problem's variables by its last `total`."""
        self._iterate([problem])
        self._commits[problem] = self._commits.get(problem, 0) + 1
        changed = [problem] + [
            n for n in self.graph.nodes if any(r.source in problem.over for r in n.reads)
        ]
        forget = self._forget(changed)
        self.operations.append(Commit(problem, not self._decided, forget))

    def draw(self, streams: Iterable[Stream], readers: Iterable[Node] | None = None) -> None:
        """New batches; by default for all who read them, else for the named nodes alone."""
        streams = tuple(dict.fromkeys(streams))
        only = None if readers is None else tuple(readers)
        changed = [n for n in only or self.graph.nodes if any(s in streams for s in n.streams)]
        for node in changed:
            self._draws[node] = self._draws.get(node, 0) + 1
        self.operations.append(Draw(streams, only, self._forget(changed, only)))

    def repeats(self, problem: Problem) -> None:
        """The further updates of a problem with `repeat`, after its first commit."""
        inner = [problem, *self._signals(problem)]
        streams = [s for node in inner for s in node.streams]
        for _ in range(problem.repeat - 1):
            if streams:
                self.draw(streams, inner)
            self.total(problem)
            self.commit(problem)

    def settled(self, problems: Sequence[Problem], tol: float) -> Settled:
        """Go on after the turn if its problems are solved; the schedule sets `end`."""
        self.operations.append(check := Settled(tuple(problems), tol))
        return check

    def decide(self) -> None:
        """From here on commits are final."""
        self._iterate(list(self._pending))
        if not self._decided:
            self.operations.append(Decide())
        self._decided = True

    def _iterate(self, problems: Sequence[Problem]) -> None:
        for problem in problems:
            if problem in self._pending:
                self.operations.append(Iterate(problem))
                del self._pending[problem]

    def streams(self, problem: Problem) -> list[Stream]:
        """The streams that the total gradient of a problem reads."""
        needed = [*self._needs(problem), *self.graph.needed(problem, self.dormant)]
        return list(dict.fromkeys(s for node in needed for s in node.streams))

    def _below(self, node: Node) -> list[Node]:
        """The nodes whose results this one reads."""
        below = (self.graph.source_node(node, r.source) for r in node.reads)
        return [
            n
            for n in below
            if n is not None
            and not (
                isinstance(n, Problem) and (n in self.dormant or not self.graph.methods[n].moves)
            )
        ]

    def _needs(self, node: Node) -> list[Node]:
        """The node and all that is evaluated for it, lowest first."""
        needs = {node}
        for n in reversed(self.graph.nodes):
            if n in needs:
                needs.update(self._below(n))
        return [n for n in self.graph.nodes if n in needs]

    def _signals(self, node: Node) -> list[Node]:
        """The signals that a node reads, directly or through other signals."""
        direct = [n for n in self._below(node) if not isinstance(n, Problem)]
        return list(dict.fromkeys(s for d in direct for s in [d, *self._signals(d)]))

    def _evaluate(self, node: Node) -> None:
        if node in self._current:
            return
        for below in self._below(node):
            self._evaluate(below)
        inner = max(self._commits.get(node, 0), self._draws.get(node, 0))
        self._current[node] = operation = Evaluate(node, inner)
        self.operations.append(operation)

    def _forget(
        self, changed: Sequence[Node], within: Sequence[Node] | None = None
    ) -> tuple[Node, ...]:
        """Drop the results of nodes, and of all that were computed from them."""
        dropped = [n for n in dict.fromkeys(changed) if n in self._current]
        for node in self.graph.nodes:
            if (
                node in self._current
                and node not in dropped
                and any(b in dropped for b in self._below(node))
            ):
                dropped.append(node)
        if within is not None:
            dropped = [n for n in dropped if n in within]
        for node in dropped:
            del self._current[node]
        return tuple(dropped)


@dataclass(frozen=True)
class Plan:
    """A step before it runs: what is evaluated, in which order, and how often.

    Attributes:
        operations: in order.
        evaluations: calls of objectives and signals, forward. For a solver that stops by itself,
            the most; for nested levels and for steps of several, as counted in a trial.
        backwards: backward passes; those of nested levels stand at the problem whose gradient they
            are for.
    """

    graph: Graph
    operations: tuple[Operation, ...]

    @property
    def per_node(self) -> dict[Node, tuple[int, int]]:
        """(evaluations, backward passes) of each node, in the order of the list."""
        count: dict[Node, list[int]] = {n: [0, 0] for n in self.graph.nodes}
        for operation in self.operations:
            if isinstance(operation, Evaluate):
                count[operation.node][0] += 1
                count[operation.node][1] += isinstance(operation.node, Problem)
            elif isinstance(operation, Total):
                for node in operation.sweep.nodes:
                    if isinstance(node, Problem):
                        cost = self.graph.methods[node].cost_of(node.size)
                        count[node][0] += cost.evaluations
                        count[node][1] += cost.backwards
                    else:
                        count[node][1] += 1
            elif isinstance(operation, Nest | Iterate) and operation.calls is not None:
                for node, calls in operation.calls.items():
                    count[node][0] += calls
                count[operation.problem][1] += operation.backwards
        return {n: (f, b) for n, (f, b) in count.items()}

    @property
    def evaluations(self) -> int:
        """Calls of objectives and signals in the step."""
        return sum(f for f, _ in self.per_node.values())

    @property
    def backwards(self) -> int:
        """Backward passes in the step."""
        return sum(b for _, b in self.per_node.values())

    def __str__(self) -> str:
        width = max(len("total"), *(len(label) for label in self.graph.labels.values()))
        lines = [f"{'':{width}}  evaluations  backward passes"]
        for node, (forward, backward) in self.per_node.items():
            numbers = f"{self.graph.labels[node]:{width}}  {forward:11}  {backward:15}"
            lines.append(f"{numbers}  {self._why(node)}".rstrip())
        lines.append(f"{'total':{width}}  {self.evaluations:11}  {self.backwards:15}")
        lines += [f"{self.graph.labels[p]}: {note}" for p, note in self.graph.notes.items()]
        return "\n".join(lines)

    def _why(self, node: Node) -> str:
        uppers = [
            self.graph.labels[o.problem]
            for o in self.operations
            if isinstance(o, Total) and node in o.sweep.nodes
        ]
        follows = [
            self.graph.labels[o.problem]
            for o in self.operations
            if isinstance(o, Nest) and node in self.graph.needed(o.problem)[1:]
        ]
        if not uppers and not follows:
            return ""
        why = [f"pulled back for {', '.join(uppers)}"] if uppers else []
        why += [f"follows, for {', '.join(follows)}"] if follows else []
        how = f" by {brief(self.graph.methods[node])}" if isinstance(node, Problem) else ""
        return "; ".join(why) + how

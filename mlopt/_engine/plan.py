"""What a step does, decided before it runs: a list of operations, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .._graph.brief import brief
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.stacking import members
from .._graph.stream import Stream
from .fuse import fuse, join
from .operations import Commit, Decide, Draw, Evaluate, Iterate, Nest, Operation, Settled, Total

__all__ = ["Builder", "Plan"]


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
        self._moved: set[Problem] = set()
        self._decided = False

    def totals(self, problems: Sequence[Problem]) -> None:
        """What the updates of problems need that are computed at one point: gradients, or steps.

        Args:
            problems: lowest first; nothing is committed or drawn in between.
        """
        nested = self._nested(problems)
        for problem in problems:
            if self.graph.methods[problem].traced:
                # Problems that read it take these very steps: they need not be taken twice.
                if problem not in self._moved:
                    self._pending.update(dict.fromkeys(self.graph.moving(problem)))
            elif problem in nested:
                self.operations.append(Nest(problem))
            else:
                self._gradient(problem)

    def total(self, problem: Problem) -> None:
        """What a problem's update needs, alone: see `totals`."""
        self.totals([problem])

    def gradient(self, problem: Problem) -> None:
        """The whole gradient of a problem, alone: with all members of the stacks that it needs.

        So it is that which a step takes, where members that are evaluated as one draw numbers.
        """
        if self.graph.staged(problem, self.dormant):
            self._gradient(problem, whole=True)
        else:
            self.operations.append(Nest(problem))

    def _nested(self, problems: Sequence[Problem]) -> set[Problem]:
        """The problems whose gradients are taken where lower solutions follow.

        Besides the nested ones these are the staged ones that have a solution in common with them:
        what is evaluated for one then serves the other. Members of stacks are left to the sweep,
        which evaluates them as one.

        Args:
            problems: computed at one point.

        Returns:
            Some of them.
        """
        plain = [p for p in problems if not self.graph.methods[p].traced]
        nested = {p for p in plain if not self.graph.staged(p, self.dormant)}
        joined = {n for p in nested for n in self.graph.needed(p, self.dormant)}
        grown = bool(nested)
        while grown:
            grown = False
            for problem in plain:
                if problem in nested or problem in self.graph.stacks:
                    continue
                needed = self.graph.needed(problem, self.dormant)
                if any(isinstance(n, Problem) and n in joined for n in needed):
                    nested.add(problem)
                    joined.update(needed)
                    grown = True
        return nested

    def _gradient(self, problem: Problem, whole: bool = False) -> None:
        """The whole gradient of a problem; evaluates what it needs and does not have."""
        sweep = self.graph.sweep(problem, self.dormant)
        for node in reversed(sweep.nodes):
            self._evaluate(node, whole)
        self._evaluate(problem, whole)
        for node, edges in sweep.edges.items():
            current = self._current[node]
            current.wanted.extend(s for s in edges if s not in current.wanted)
            current.pulled |= node is not problem
        self.operations.append(Total(problem, sweep))

    def commit(self, problem: Problem) -> None:
        """Update a problem's variables by its last `total`; the players of a game together."""
        if problem in self._moved:  # with the first player of its game
            self._moved.remove(problem)
            return
        players = self.graph.moving(problem)
        self._iterate(players)
        self._moved.update(p for p in players if p is not problem)
        for player in players:
            self._commit(player)

    def _commit(self, problem: Problem) -> None:
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
        fuse(self.graph, self.operations, self._needs)
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

    def _evaluate(self, node: Node, whole: bool = False) -> None:
        if node in self._current:
            return
        nodes = [node]
        if whole:
            nodes = [n for n in members(self.graph, node) if n is node or self._joins(n)]
        for below in dict.fromkeys(b for n in nodes for b in self._below(n)):
            self._evaluate(below, whole)
        inner = max(self._commits.get(node, 0), self._draws.get(node, 0))
        for operation in join(self.graph, [Evaluate(n, inner) for n in nodes]):
            self._current[operation.node] = operation
            self.operations.append(operation)

    def _joins(self, member: Node) -> bool:
        """Whether a member of a stack can be evaluated now, with another one that is needed."""
        if member in self._current:
            return False
        return not isinstance(member, Problem) or self.graph.staged(member, self.dormant)

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
        lines += self._stacking()
        lines += [f"{self.graph.labels[p]}: {note}" for p, note in self.graph.notes.items()]
        return "\n".join(lines)

    def _stacking(self) -> list[str]:
        """How the members of stacks are evaluated, a line each."""

        def listed(nodes: Iterable[Node]) -> str:
            return ", ".join(self.graph.labels[n] for n in nodes)

        planned = [o.together for o in self.operations if isinstance(o, Evaluate) and o.together]
        as_one = dict.fromkeys(tuple(e.node for e in together) for together in planned)
        lines = [f"evaluated as one: {listed(nodes)}" for nodes in as_one]
        stacked = {node for nodes in as_one for node in nodes}
        for stack in dict.fromkeys(self.graph.stacks.values()):
            if len(stack.members) > 1 and stacked.isdisjoint(stack.members):
                lines.append(f"evaluated one by one: {listed(stack.members)}")
        nested = {
            node
            for o in self.operations
            if isinstance(o, Nest | Iterate)
            for node in self.graph.needed(o.problem)
            if node in stacked
        }
        if nested:
            also = listed(n for n in self.graph.nodes if n in nested)
            lines.append(f"one by one where they follow: {also}")
        return lines

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

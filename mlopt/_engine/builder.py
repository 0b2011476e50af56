"""`Builder`: composes a step, operation by operation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.stacking import members
from .._graph.stream import Stream
from .followed import followed
from .fuse import fuse, join
from .operations import Commit, Decide, Draw, Evaluate, Iterate, Nest, Operation, Settled, Total

__all__ = ["Builder"]


class Builder:
    """Composes a step; a schedule drives it.

    What a node gave is kept until something it read has changed, so nothing is evaluated twice.

    Args:
        graph: the graph.
        dormant: problems before their start.
        undo: whether commits can be undone: then the decision comes last, and sees what they gave.
    """

    def __init__(
        self, graph: Graph, dormant: frozenset[Problem] = frozenset(), undo: bool = True
    ) -> None:
        self.graph = graph
        self.dormant = dormant
        self.undo = undo
        self.operations: list[Operation] = []
        self._current: dict[Node, Evaluate] = {}
        self._commits: dict[Node, int] = {}
        self._draws: dict[Node, int] = {}
        self._pending: dict[Problem, None] = {}
        self._moved: set[Problem] = set()
        self._decided = False
        self._reads: dict[Node, list[Node]] = {}

    def totals(self, problems: Sequence[Problem]) -> None:
        """What the updates of problems need that are computed at one point: gradients, or steps.

        Args:
            problems: lowest first; nothing is committed or drawn in between.
        """
        plain = [p for p in problems if not self.graph.methods[p].traced]
        nested = followed(self.graph, plain, self.dormant)
        for problem in problems:
            if self.graph.methods[problem].traced:
                # Problems that read it take these very steps: they need not be taken twice.
                if problem not in self._moved:
                    self._pending.update(dict.fromkeys(self.graph.moving(problem)))
            elif problem in nested:
                self.operations.append(Nest(problem, self._rounds()))
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
            self.operations.append(Nest(problem, self._rounds()))

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
        forget = self._forget([problem, *(n for n, _ in self.graph.readers(problem))])
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
        inner = [problem, *self.graph.signals_of(problem)]
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

    def iterate(self) -> None:
        """Take all steps that are pending, so that none of them sees a commit of another."""
        self._iterate(list(self._pending))

    def decide(self) -> None:
        """From here on nothing but commits follows."""
        self.iterate()
        fuse(self.graph, self.operations, self._needs)
        if not self._decided and not self.undo:
            self.operations.append(Decide())
        self._decided = True

    def plan(self) -> tuple[Operation, ...]:
        """What has been composed."""
        last = [] if self._decided and not self.undo else [Decide()]
        return (*self.operations, *last)

    def _iterate(self, problems: Sequence[Problem]) -> None:
        for problem in problems:
            if problem in self._pending:
                self.operations.append(Iterate(problem, self._rounds()))
                del self._pending[problem]

    def streams(self, problem: Problem) -> list[Stream]:
        """The streams that the total gradient of a problem reads."""
        needed = [*self._needs(problem), *self.graph.needed(problem, self.dormant)]
        return list(dict.fromkeys(s for node in needed for s in node.streams))

    def _below(self, node: Node) -> list[Node]:
        """The nodes whose results this one reads."""
        if node not in self._reads:
            below = (self.graph.source_node(node, r.source) for r in node.reads)
            self._reads[node] = [n for n in below if n is not None and self._moves(n)]
        return self._reads[node]

    def _moves(self, node: Node) -> bool:
        """Whether readers see what an evaluation of this node gave."""
        still = isinstance(node, Problem) and not self.graph.methods[node].moves
        return not (still or node in self.dormant)

    def _needs(self, node: Node) -> list[Node]:
        """The node and all that is evaluated for it, lowest first."""
        needs: dict[Node, None] = {node: None}
        waiting = [node]
        for n in waiting:
            new = [b for b in self._below(n) if b not in needs]
            needs.update(dict.fromkeys(new))
            waiting += new
        return sorted(needs, key=self.graph.place.__getitem__)

    def _evaluate(self, node: Node, whole: bool = False) -> None:
        """Evaluate what a node needs, then itself; without recursion, since levels may be many."""
        waiting = [node]
        while waiting:
            at = waiting[-1]
            nodes = [at]
            if whole:
                nodes = [n for n in members(self.graph, at) if n is at or self._joins(n)]
            below = dict.fromkeys(b for n in nodes for b in self._below(n))
            missing = [b for b in below if b not in self._current]
            if at in self._current:
                waiting.pop()
            elif missing:
                waiting += reversed(missing)
            else:
                waiting.pop()
                inner = self._round(at)
                for operation in join(self.graph, [Evaluate(n, inner) for n in nodes]):
                    self._current[operation.node] = operation
                    self.operations.append(operation)

    def _round(self, node: Node) -> int:
        return max(self._commits.get(node, 0), self._draws.get(node, 0))

    def _rounds(self) -> dict[Node, int]:
        return {n: self._round(n) for n in {**self._commits, **self._draws}}

    def _joins(self, member: Node) -> bool:
        """Whether a member of a stack can be evaluated now, with another one that is needed."""
        if member in self._current:
            return False
        return not isinstance(member, Problem) or self.graph.staged(member, self.dormant)

    def _forget(
        self, changed: Sequence[Node], within: Sequence[Node] | None = None
    ) -> tuple[Node, ...]:
        """Drop the results of nodes, and of all that were computed from them."""
        dropped = dict.fromkeys(n for n in changed if n in self._current)
        waiting = list(dropped)
        for node in waiting:
            for reader, _ in self.graph.readers(node):
                stale = reader in self._current and reader not in dropped
                if stale and node in self._below(reader):
                    dropped[reader] = None
                    waiting.append(reader)
        kept = dropped if within is None else [n for n in dropped if n in within]
        for node in kept:
            del self._current[node]
        return tuple(kept)

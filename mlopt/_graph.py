"""The graph: who reads whom, who responds to whom, and what is refused."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from ._draw import mermaid, text
from ._errors import GraphError
from ._game import Game
from ._group import Group, flatten
from ._hypergrad import AbstractHypergradient
from ._node import Node, Read
from ._problem import Problem
from ._refusals import (
    check_missing_methods,
    check_nodes,
    check_parameters,
    check_reads,
    check_solutions,
)
from ._signal import Signal
from ._stack import Stack, batchable, check_stacks, chosen_methods
from ._variable import Variable
from .hypergrad import Frozen

__all__ = ["Graph", "Sweep"]


@dataclass(frozen=True)
class Sweep:
    """How gradients come back to the variables of one problem.

    Attributes:
        upper: the problem.
        nodes: the nodes it anticipates, from the highest to the lowest: the order of the walk.
        edges: for `upper` and each of `nodes`, the sources that cotangents pass to.
    """

    upper: Problem
    nodes: tuple[Node, ...]
    edges: dict[Node, tuple[Any, ...]]


class Graph:
    """Problems and signals in the order of their nesting, lowest first; checked when made.

    A node *responds* to a variable if its value depends on it, directly or through lower nodes that
    respond. A problem *anticipates* the lower nodes that respond to its variables and that it
    reads, directly or through others.

    Args:
        entries: problems, signals and groups of them, from the lowest level to the highest.
        default: the method of problems that name none.

    Raises:
        GraphError: the list is not such a graph; the message names the node and what to do.
    """

    def __init__(
        self, entries: Sequence[Node | Group], default: AbstractHypergradient | None = None
    ) -> None:
        self.nodes, self.groups = flatten(entries)
        check_nodes(self)
        self.problems: tuple[Problem, ...] = tuple(n for n in self.nodes if isinstance(n, Problem))
        self.signals: tuple[Signal, ...] = tuple(n for n in self.nodes if isinstance(n, Signal))
        self.games = {p: g for g in self.groups if isinstance(g, Game) for p in g.players}
        # The players of a game share the rank of the first: none of them is below another.
        self.rank = {node: i for i, node in enumerate(self.nodes)}
        self.rank.update({p: self.rank[g.players[0]] for p, g in self.games.items()})
        self.stacks = {m: g for g in self.groups if isinstance(g, Stack) for m in g.members}
        self.labels = _labels(self.nodes)
        self.owner = self._owners()
        self.variables: tuple[Variable, ...] = tuple(self.owner)
        check_reads(self)
        check_parameters(self)
        self.default = default
        self._follows: dict[Problem, frozenset[Node]] = {}
        self.notes: dict[Problem, str] = {}  # what had to be done another way
        # The default is for problems whose solution somebody above reads; a top one makes its
        # ordinary update.
        read = {r.source for n in self.nodes for r in n.reads if self.source_node(n, r.source)}
        self.methods = {
            p: p.hypergrad or (default if read.intersection(p.over) else None) or Frozen()
            for p in self.problems
        }
        for game in dict.fromkeys(g for g in self.games.values() if g.traced):
            self.methods.update(game.methods())
        check_stacks(self)
        check_missing_methods(self)
        self.sweeps = {p: self.sweep(p) for p in self.problems}
        check_solutions(self)

    def source_node(self, reader: Node, source: Any) -> Node | None:
        """The node whose result a reader sees: a signal, or the lower problem over a variable.

        Returns:
            The node, or None where the variable is read as it stands: its own, or one of an equal
            or higher level.
        """
        if isinstance(source, Signal):
            return source
        owner = self.owner[source]
        return owner if self.rank[owner] < self.rank[reader] else None

    def members(self, node: Node) -> tuple[Node, ...]:
        """A node and those that are evaluated as one with it, in their order."""
        stack = self.stacks.get(node)
        if stack is None:
            return (node,)
        methods = list(chosen_methods(self, stack).values())
        alike = all(m == methods[0] and batchable(m) for m in methods)
        return stack.members if alike else (node,)

    def beside(self, problem: Problem) -> tuple[Variable, ...]:
        """A problem's own variables, and those of the players of its game if it is in one."""
        game = self.games.get(problem)
        return problem.over if game is None else game.over

    def stands(self, reader: Node, source: Any) -> bool:
        """Whether a player sees this variable of another player where the step began."""
        game = self.games.get(reader)  # type: ignore[call-overload]
        return game is not None and not game.traced and source in game.over

    def moving(self, problem: Problem) -> tuple[Problem, ...]:
        """The problems whose steps make up its solution: those of all players of a game."""
        game = self.games.get(problem)
        return game.players if game is not None and game.traced else (problem,)

    def responding(self, problem: Problem, still: Container[Node]) -> list[Node]:
        """The nodes below a problem that respond to its variables, lowest first.

        Args:
            problem: whose variables.
            still: problems that do not respond.

        Returns:
            Problems and signals.
        """
        responding: list[Node] = []
        for node in self.nodes[: self.rank[problem]]:
            if node in still:
                continue
            players = self.moving(node) if isinstance(node, Problem) else (node,)
            reads = [(n, read) for n in players for read in n.reads]
            if any(self._passes(n, read, problem, responding) for n, read in reads):
                responding.append(node)
        return responding

    def _passes(self, node: Node, read: Read, upper: Problem, responding: Container[Node]) -> bool:
        """Whether this read of `node` depends on the variables of `upper`."""
        if read.stopped or (isinstance(node, Problem) and read.source in node.over):
            return False
        if read.source in upper.over:
            return True
        below = self.source_node(node, read.source)
        return below is not None and below in responding

    def sweep(self, upper: Problem, dormant: Container[Node] = ()) -> Sweep:
        """The sweep of a problem.

        Args:
            upper: the problem.
            dormant: problems before their start, which stand still.

        Returns:
            Its walk and the edges that cotangents pass.
        """
        still = {p for p, m in self.methods.items() if p in dormant or not m.responds}
        responding = self.responding(upper, still)
        edges: dict[Node, tuple[Any, ...]] = {}
        frontier: set[Node] = {upper}
        for node in (upper, *reversed(self.nodes[: self.rank[upper]])):
            if node in frontier:
                passing = [r.source for r in node.reads if self._passes(node, r, upper, responding)]
                edges[node] = tuple(passing)
                below = (self.source_node(node, source) for source in passing)
                frontier.update(n for n in below if n is not None)
        return Sweep(upper, tuple(edges)[1:], edges)

    # Where a solution follows what is displaced: see `_total.py`.

    def participates(self, problem: Problem, dormant: Container[Node] = ()) -> bool:
        """Whether readers may see anything else than the problem's standing value.

        Args:
            problem: a lower problem.
            dormant: problems before their start, which stand still.

        Returns:
            Whether it moves, responds or follows.
        """
        method = self.methods[problem]
        return problem not in dormant and (method.moves or method.responds or method.at_solution)

    def follows(self, problem: Problem) -> frozenset[Node]:
        """The lower nodes whose values depend on this problem's own variables.

        Inside the problem's total objective they are computed anew wherever its variables move; all
        else comes from its reader. For a method of several steps that is also true of the signals
        that it reads, which are made from each inner step's batch.

        Args:
            problem: the problem.

        Returns:
            Problems and signals below it.
        """
        if problem not in self._follows:
            below = [n for n in self.nodes[: self.rank[problem]]
                     if not isinstance(n, Problem) or self.participates(n)]  # type: ignore[arg-type]  # fmt: skip
            found: set[Node] = set()
            # A player sees what is made of the others where they stand, or move with it.
            moved = set(self.beside(problem))
            if self.methods[problem].traced:
                found.update(*(self._signals(p) for p in self.moving(problem)))
            grown = True
            while grown:
                more = {n for n in below if n not in found
                        and any(r.source in moved or self._node(r.source) in found
                                for r in n.reads)}  # fmt: skip
                grown = bool(more)
                found |= more
            self._follows[problem] = frozenset(found)
        return self._follows[problem]

    def cuts(self, problem: Problem) -> tuple[Any, ...]:
        """What a problem's total objective reads from outside: its arguments r.

        Args:
            problem: the problem.

        Returns:
            Variables and signals, each once.
        """
        follows, beside = self.follows(problem), self.beside(problem)
        reached: list[Node] = list(self.moving(problem))
        outside: dict[Any, None] = {}
        for node in reached:
            for source in (r.source for r in node.reads):
                below = self._node(source)
                if below in follows:
                    if below not in reached:
                        reached.append(below)
                elif source not in beside:
                    outside[source] = None
        return tuple(outside)

    def needed(self, upper: Problem, dormant: Container[Node] = ()) -> list[Node]:
        """All that is resolved below a problem when its total objective is evaluated.

        Args:
            upper: the problem.
            dormant: problems before their start.

        Returns:
            Signals, and the problems that are not read as they stand; `upper` is the first.
        """
        found: list[Node] = [upper]
        for node in found:
            for source in (r.source for r in node.reads):
                below = self._node(source)
                if below in found or self.rank[below] > self.rank[upper]:
                    continue
                if self.stands(node, source):
                    continue
                if not isinstance(below, Problem) or self.participates(below, dormant):
                    found.append(below)
        return found

    def staged(self, upper: Problem, dormant: Container[Node] = ()) -> bool:
        """Whether one value of each lower node serves all who read it below this problem.

        Args:
            upper: the problem.
            dormant: problems before their start.

        Returns:
            True if the sweep gives its gradient; False if its lower solutions must follow.
        """
        needed = self.needed(upper, dormant)
        for node in needed:
            if isinstance(node, Problem) and node is not upper:
                steers = not self.follows(node).isdisjoint(self.needed(node, dormant))
                if steers or self.methods[node].traced:
                    return False
            for read in node.reads:
                above = self._node(read.source)
                if (
                    isinstance(above, Problem)
                    and above is not upper
                    and above in needed
                    and self.rank[above] > self.rank[node]
                ):
                    return False
        return True

    def streams(self, problem: Problem) -> set[Any]:
        """The streams of which each of a problem's inner steps takes a batch of its own."""
        if getattr(self.methods[problem], "same_batch", False):
            return set()
        return {s for node in [problem, *self._signals(problem)] for s in node.streams}

    def _node(self, source: Any) -> Node:
        """The signal, or the problem over a variable."""
        return source if isinstance(source, Signal) else self.owner[source]

    def _signals(self, node: Node) -> set[Node]:
        """The signals that a node reads, directly or through other signals."""
        direct = {r.source for r in node.reads if isinstance(r.source, Signal)}
        return direct.union(*(self._signals(s) for s in direct))

    def _owners(self) -> dict[Variable, Problem]:
        owner: dict[Variable, Problem] = {}
        for p in self.problems:
            for v in p.over:
                if v in owner:
                    raise GraphError(
                        f"{v.name} is minimised by {owner[v].name} and by {p.name}; a variable has "
                        "one problem. Sum the objectives, or make two variables."
                    )
                owner[v] = p
        return owner

    def __str__(self) -> str:
        return text(self)

    def mermaid(self) -> str:
        """The graph as a Mermaid flowchart: solid edges pass gradients, dotted ones do not.

        Returns:
            Mermaid source, for Markdown pages and notebooks.
        """
        return mermaid(self)


def _labels(nodes: Sequence[Node]) -> dict[Node, str]:
    """Names, numbered where several nodes share one."""
    names = [n.name for n in nodes]
    count: dict[str, int] = {}
    labels: dict[Node, str] = {}
    for node in nodes:
        count[node.name] = count.get(node.name, 0) + 1
        labels[node] = (
            node.name if names.count(node.name) == 1 else f"{node.name}#{count[node.name]}"
        )
    return labels

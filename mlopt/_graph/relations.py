"""Who is over what, who reads whom, and who responds to whom."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .._errors import GraphError
from .._variable import Variable
from ..hypergrad.interface import AbstractHypergradient
from ..optim.numbers import Number
from .game import Game
from .group import Group
from .node import Node, Read
from .problem import Problem
from .signal import Signal
from .stack import Stack

__all__ = ["Relations", "Sweep"]


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


class Relations:
    """The relations between the nodes of a graph, each found in time linear in the edges it meets.

    A node *responds* to a variable if its value depends on it, directly or through lower nodes that
    respond. A problem *anticipates* the lower nodes that respond to its variables and that it
    reads, directly or through others.

    Args:
        nodes: problems and signals, lowest first.
        groups: of them.

    Raises:
        GraphError: two problems are over one variable.
    """

    def __init__(self, nodes: Sequence[Node], groups: Sequence[Group]) -> None:
        self.nodes, self.groups = tuple(nodes), tuple(groups)
        self.problems: tuple[Problem, ...] = tuple(n for n in self.nodes if isinstance(n, Problem))
        self.signals: tuple[Signal, ...] = tuple(n for n in self.nodes if isinstance(n, Signal))
        self.games = {p: g for g in self.groups if isinstance(g, Game) for p in g.players}
        self.place = {node: i for i, node in enumerate(self.nodes)}
        # The players of a game share the rank of the first: none of them is below another.
        self.rank = {**self.place, **{p: self.place[g.players[0]] for p, g in self.games.items()}}
        self.labels = _labels(self.nodes)
        self.owner = self._owners()
        self.variables: tuple[Variable, ...] = tuple(self.owner)
        self.stacks = {m: g for g in self.groups if isinstance(g, Stack) for m in g.members}
        self.methods: dict[Problem, AbstractHypergradient] = {}
        self.sweeps: dict[Problem, Sweep] = {}
        self.numbers: dict[Problem, dict[int, Number]] = {}  # of optimizers, that are variables
        self.notes: dict[Any, str] = {}  # what had to be done another way
        self._equilibria: dict[tuple[Problem, frozenset[Node]], tuple[Problem, ...]] = {}
        self._readers: dict[Any, list[tuple[Node, Read]]] = {}
        for node in self.nodes:
            for read in node.reads:
                self._readers.setdefault(read.source, []).append((node, read))

    def node(self, source: Any) -> Node:
        """The signal, or the problem over a variable."""
        return source if isinstance(source, Signal) else self.owner[source]

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

    def readers(self, node: Node) -> Iterator[tuple[Node, Read]]:
        """Who reads a signal's value or a problem's variables, and by which read.

        Args:
            node: the signal or problem.

        Yields:
            Pairs of a reader and its read, from whatever level.
        """
        for source in node.over if isinstance(node, Problem) else (node,):
            yield from self._readers.get(source, ())

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

    def signals_of(self, *readers: Node) -> list[Node]:
        """The signals that nodes read, directly or through other signals, each once."""
        found: dict[Node, None] = {}
        waiting = list(readers)
        while waiting:
            heard = [r.source for r in waiting.pop().reads if isinstance(r.source, Signal)]
            waiting += [s for s in heard if s not in found]
            found.update(dict.fromkeys(heard))
        return list(found)

    def participates(self, problem: Problem, dormant: frozenset[Node] = frozenset()) -> bool:
        """Whether readers may see anything else than the problem's standing value.

        Args:
            problem: a lower problem.
            dormant: problems before their start, which stand still.

        Returns:
            Whether it moves, responds or follows.
        """
        method = self.methods[problem]
        return problem not in dormant and (method.moves or method.responds or method.at_solution)

    # What is solved together.

    def solved_with(
        self, problem: Problem, dormant: frozenset[Node] = frozenset()
    ) -> tuple[Problem, ...]:
        """The problems whose solutions are one solution, this one among them.

        The players of a game whose play takes the steps, or those that are in equilibrium: each is
        solved where the others are, and what moves one moves all.

        Args:
            problem: the problem.
            dormant: problems before their start, which stand still.

        Returns:
            They, in their order; the problem alone outside of games.
        """
        game = self.games.get(problem)
        if game is None or game.traced:
            return self.moving(problem)
        key = (problem, dormant)
        if key not in self._equilibria:
            solved = [p for p in game.players if p not in dormant and self._solves(p)]
            met = self.coupled(problem, solved) if problem in solved else (problem,)
            self._equilibria[key] = met
        return self._equilibria[key]

    def coupled(self, player: Problem, others: Sequence[Problem]) -> tuple[Problem, ...]:
        """The players of a game that a player reads or that read it, directly or through others.

        Args:
            player: the player.
            others: those that count; all else stands where the step began.

        Returns:
            They and the player, in the order of the game.
        """
        met, waiting = {player}, [player]
        while waiting:
            p = waiting.pop()
            for q in others:
                if q not in met and (self._sees(p, q) or self._sees(q, p)):
                    met.add(q)
                    waiting.append(q)
        return tuple(p for p in self.games[player].players if p in met)

    def _solves(self, problem: Problem) -> bool:
        """Whether readers differentiate at the problem's optimum."""
        method = self.methods[problem]
        return method.at_solution and method.responds

    def _sees(self, player: Problem, other: Problem) -> bool:
        """Whether a player's total objective depends on another player's variables."""
        seen: set[Node] = {player}
        waiting: list[Node] = [player]
        for node in waiting:
            for read in node.reads:
                if read.stopped:
                    continue
                if read.source in other.over:
                    return True
                below = self.node(read.source)
                lower = self.rank[below] < self.rank[player]
                if below not in seen and lower and self._may_follow(below, player):
                    seen.add(below)
                    waiting.append(below)
        return False

    def _may_follow(self, node: Node, problem: Problem) -> bool:
        """Whether a node is below a problem, and anything but a constant to its readers."""
        moves = not isinstance(node, Problem) or self.participates(node)
        return moves and self.rank[node] < self.rank[problem]

    # Where gradients pass.

    def sweep(self, upper: Problem, dormant: frozenset[Node] = frozenset()) -> Sweep:
        """The sweep of a problem.

        Args:
            upper: the problem.
            dormant: problems before their start, which stand still.

        Returns:
            Its walk and the edges that cotangents pass.
        """
        responding = self._responding(upper, dormant)
        edges: dict[Node, tuple[Any, ...]] = {}
        reached: set[Node] = {upper}
        waiting = [upper]
        while waiting:
            node = waiting.pop()
            edges[node] = tuple(
                r.source for r in node.reads if self._passes(node, r, upper, responding)
            )
            below = {self.source_node(node, source) for source in edges[node]} - {None} - reached
            reached |= below  # type: ignore[arg-type]
            waiting += below  # type: ignore[arg-type]
        nodes = sorted(reached - {upper}, key=self.place.__getitem__, reverse=True)
        return Sweep(upper, tuple(nodes), {n: edges[n] for n in (upper, *nodes)})

    def _responding(self, upper: Problem, dormant: frozenset[Node]) -> set[Node]:
        """The nodes below a problem that respond to its variables."""
        responding: set[Node] = set()
        waiting: list[Node] = [upper]
        while waiting:
            for reader, read in self.readers(waiting.pop()):
                if not self._passes(reader, read, upper, responding):
                    continue
                # Players whose steps a play takes, or that are in equilibrium, respond together.
                moved = (
                    self.solved_with(reader, dormant) if isinstance(reader, Problem) else (reader,)
                )
                for node in moved:
                    if self.rank[node] >= self.rank[upper] or node in responding:
                        continue
                    if isinstance(node, Problem) and (
                        node in dormant or not self.methods[node].responds
                    ):
                        continue
                    responding.add(node)
                    waiting.append(node)
        return responding

    def _passes(self, node: Node, read: Read, upper: Problem, responding: Container[Node]) -> bool:
        """Whether this read of `node` depends on the variables of `upper`."""
        if read.stopped or (isinstance(node, Problem) and read.source in node.over):
            return False
        if read.source in upper.over:
            return True
        below = self.source_node(node, read.source)
        return below is not None and below in responding

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


def _labels(nodes: Sequence[Node]) -> dict[Node, str]:
    """Names, numbered where several nodes share one."""
    total: dict[str, int] = {}
    for node in nodes:
        total[node.name] = total.get(node.name, 0) + 1
    count: dict[str, int] = {}
    labels: dict[Node, str] = {}
    for node in nodes:
        count[node.name] = count.get(node.name, 0) + 1
        alone = total[node.name] == 1
        labels[node] = node.name if alone else f"{node.name}#{count[node.name]}"
    return labels

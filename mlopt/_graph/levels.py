"""Where levels are nested: whose solutions must follow when a higher value is displaced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .group import Group
from .node import Node
from .problem import Problem
from .relations import Relations

__all__ = ["Levels"]


class Levels(Relations):
    """The relations of a graph with what its methods make of them; see `_sweep/total.py`.

    A graph is *staged* below a problem if one value of each lower node serves all who read it
    there. Else some lower solutions *follow*: they are taken anew wherever a variable above them
    moves.

    Args:
        nodes: problems and signals, lowest first.
        groups: of them.
    """

    def __init__(self, nodes: Sequence[Node], groups: Sequence[Group]) -> None:
        super().__init__(nodes, groups)
        self._follows: dict[Problem, frozenset[Node]] = {}
        self._cuts: dict[tuple[Problem, frozenset[Node]], tuple[Any, ...]] = {}
        self._nesting: dict[tuple[Problem, frozenset[Node]], bool] = {}
        self._steering: dict[frozenset[Node], frozenset[Problem]] = {}
        self._inseparable: frozenset[Node] | None = None

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
            traced = self.methods[problem].traced
            found = set(self.signals_of(*self.moving(problem)) if traced else ())
            # A player sees what is made of the others where they stand, or move with it.
            waiting: list[Node] = [*{self.owner[v] for v in self.beside(problem)}, *found]
            while waiting:
                for reader, _ in self.readers(waiting.pop()):
                    if reader not in found and self._may_follow(reader, problem):
                        found.add(reader)
                        waiting.append(reader)
            self._follows[problem] = frozenset(found)
        return self._follows[problem]

    def cuts(self, problem: Problem, dormant: frozenset[Node] = frozenset()) -> tuple[Any, ...]:
        """What a problem's total objective reads from outside: its arguments r.

        What its lower solutions read from outside is among it: they are found inside.

        Args:
            problem: the problem.
            dormant: problems before their start, which stand still.

        Returns:
            Variables and signals, each once.
        """
        key = (problem, dormant)
        if key not in self._cuts:
            inside, beside = self.follows(problem), self.beside(problem)
            outside: dict[Any, None] = {}
            reached: set[Node] = set()
            solved = self.solved_with(problem, dormant)
            waiting = [r.source for p in solved for r in p.reads]
            for source in waiting:
                below = self.node(source)
                if below not in inside:
                    if source not in beside:
                        outside[source] = None
                elif below not in reached:
                    reached.add(below)
                    waiting += self.asks(below, dormant)
            self._cuts[key] = tuple(outside)
        return self._cuts[key]

    def asks(self, node: Node, dormant: frozenset[Node] = frozenset()) -> list[Any]:
        """What is read from outside where a lower signal or solution is found.

        Args:
            node: the signal or problem.
            dormant: problems before their start.

        Returns:
            Variables and signals.
        """
        if not isinstance(node, Problem):
            return [r.source for r in node.reads]
        if not self.participates(node, dormant):
            return []
        return [*self.cuts(node, dormant), *self.methods[node].reads]

    def separable(self, problem: Problem, dormant: frozenset[Node] = frozenset()) -> bool:
        """Whether a total objective's derivatives are each the same whatever else is asked for.

        Args:
            problem: whose total objective it is.
            dormant: problems before their start.

        Returns:
            Whether those of all methods below it are.
        """
        if self._inseparable is None:
            methods = self.methods.items()
            self._inseparable = frozenset(p for p, m in methods if m.responds and not m.separable)
        return not self._inseparable or self._inseparable.isdisjoint(
            self.needed(problem, dormant)[1:]
        )

    def needed(self, upper: Problem, dormant: frozenset[Node] = frozenset()) -> list[Node]:
        """All that is resolved below a problem when its total objective is evaluated.

        Args:
            upper: the problem.
            dormant: problems before their start.

        Returns:
            Signals, and the problems that are not read as they stand; `upper` is the first.
        """
        found: dict[Node, None] = {upper: None}
        waiting: list[Node] = [upper]
        for node in waiting:
            for source in (r.source for r in node.reads):
                below = self.node(source)
                if below in found or self.rank[below] > self.rank[upper]:
                    continue
                if self.stands(node, source):
                    continue
                if not isinstance(below, Problem):
                    solved: tuple[Node, ...] = (below,)
                elif self.participates(below, dormant):
                    solved = self.solved_with(below, dormant)
                else:
                    continue
                new = [n for n in solved if n not in found]
                found.update(dict.fromkeys(new))
                waiting += new
        return waiting

    def staged(self, upper: Problem, dormant: frozenset[Node] = frozenset()) -> bool:
        """Whether one value of each lower node serves all who read it below this problem.

        Args:
            upper: the problem.
            dormant: problems before their start.

        Returns:
            True if the sweep gives its gradient; False if its lower solutions must follow.
        """
        if self._moving_others(dormant) <= {upper}:
            return True
        needed = dict.fromkeys(self.needed(upper, dormant))
        for node in needed:
            if isinstance(node, Problem) and node is not upper and self._nests(node, dormant):
                return False
            for read in node.reads:
                above = self.node(read.source)
                if above is not upper and above in needed and self.rank[above] > self.rank[node]:
                    return False
        return True

    def streams(self, problem: Problem) -> set[Any]:
        """The streams of which each of a problem's inner steps takes a batch of its own."""
        if getattr(self.methods[problem], "same_batch", False):
            return set()
        return {s for node in [problem, *self.signals_of(problem)] for s in node.streams}

    def _nests(self, problem: Problem, dormant: frozenset[Node]) -> bool:
        """Whether it takes several steps, is in equilibrium, or something that it needs follows."""
        key = (problem, dormant)
        if key not in self._nesting:
            follows = self.follows(problem)
            needed = self.needed(problem, dormant) if follows else ()
            steps = self.methods[problem].traced or len(self.solved_with(problem, dormant)) > 1
            self._nesting[key] = steps or not follows.isdisjoint(needed)
        return self._nesting[key]

    def _moving_others(self, dormant: frozenset[Node]) -> frozenset[Problem]:
        """The problems that can make a graph above them nested; none in a staged graph.

        They take several steps, are in equilibrium, or something below reads their variables.

        Args:
            dormant: problems before their start.

        Returns:
            Problems.
        """
        if dormant not in self._steering:
            lower = (p for p in self.problems if self.participates(p, dormant))
            moving = (
                p
                for p in lower
                if self.methods[p].traced
                or self.follows(p)
                or len(self.solved_with(p, dormant)) > 1
            )
            self._steering[dormant] = frozenset(moving)
        return self._steering[dormant]

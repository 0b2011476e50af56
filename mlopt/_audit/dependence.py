"""Who depends on whom in a graph."""

from __future__ import annotations

from typing import Any

from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.signal import Signal

__all__ = ["Dependence"]


class Dependence:
    """What the solutions of a graph are functions of.

    Args:
        graph: the graph.
        dormant: problems before their start.
    """

    def __init__(self, graph: Graph, dormant: frozenset[Problem]) -> None:
        self.graph, self.dormant = graph, dormant
        self._follows: dict[Problem, set[Node]] = {}

    def node(self, source: Any) -> Node:
        """The signal, or the problem over a variable."""
        return source if isinstance(source, Signal) else self.graph.owner[source]

    def moving(self, problem: Problem) -> bool:
        """Whether readers can see anything but a constant."""
        method = self.graph.methods[problem]
        return problem not in self.dormant and (
            method.moves or method.responds or method.at_solution
        )

    def follows(self, problem: Problem) -> set[Node]:
        """The lower nodes whose values depend on a problem's variables, or on its inner step.

        For a player of a game also those that depend on the other players' variables.

        Args:
            problem: the problem.

        Returns:
            Problems and signals below it.
        """
        if problem not in self._follows:
            below = [
                n
                for n in self.graph.nodes[: self.graph.rank[problem]]
                if not isinstance(n, Problem) or self.moving(n)
            ]
            found: set[Node] = set()
            own = self.graph.beside(problem)
            if self.graph.methods[problem].traced:
                for p in self.graph.moving(problem):
                    found.update(n for n in self.reached(p, Signal) if isinstance(n, Signal))
            for _ in below:  # as many rounds as a chain can be long
                for n in below:
                    sources = [r.source for r in n.reads]
                    if any(s in own or self.node(s) in found for s in sources):
                        found.add(n)
            self._follows[problem] = found
        return self._follows[problem]

    def reached(self, problem: Problem, through: type = Node) -> list[Node]:
        """The problem and the lower nodes it reads, directly or through others of a kind."""
        reached: list[Node] = [problem]
        for node in reached:
            if node is problem or isinstance(node, through):
                below = (self.node(r.source) for r in node.reads)
                lower = (n for n in below if self.graph.rank[n] < self.graph.rank[problem])
                reached.extend(n for n in dict.fromkeys(lower) if n not in reached)
        return reached

    def chain(self, problem: Problem, top: Problem) -> list[Problem]:
        """The problems inside whose objectives a solution is found, from the top down."""
        chain: list[Problem] = []
        reached = self.reached(top)
        for p in self.graph.problems[: self.graph.problems.index(top) + 1]:
            below = chain[-1] if chain else problem
            inside = below in self.follows(p) and below in self.reached(p)
            if inside and (p is top or (self.moving(p) and p in reached)):
                chain.append(p)
        return chain[::-1]

"""The graph: who reads whom, who responds to whom, and what is refused."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from ._draw import mermaid, text
from ._errors import GraphError
from ._hypergrad import AbstractHypergradient
from ._node import Node, Read
from ._problem import Problem
from ._signal import Signal
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
        nodes: problems and signals, from the lowest level to the highest.
        default: the method of problems that name none.

    Raises:
        GraphError: the list is not such a graph; the message names the node and what to do.
    """

    def __init__(self, nodes: Sequence[Node], default: AbstractHypergradient | None = None) -> None:
        self.nodes: tuple[Node, ...] = tuple(nodes)
        self._check_nodes()
        self.problems: tuple[Problem, ...] = tuple(n for n in self.nodes if isinstance(n, Problem))
        self.signals: tuple[Signal, ...] = tuple(n for n in self.nodes if isinstance(n, Signal))
        self.rank = {node: i for i, node in enumerate(self.nodes)}
        self.labels = _labels(self.nodes)
        self.owner = self._owners()
        self.variables: tuple[Variable, ...] = tuple(self.owner)
        self._check_reads()
        self._check_parameters()
        self._default = default
        self.methods = {p: p.hypergrad or default or Frozen() for p in self.problems}
        self._check_missing_methods()
        self.sweeps = {p: self.sweep(p) for p in self.problems}
        self._check_solutions()
        self._check_nesting()

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
            if any(self._passes(node, read, problem, responding) for read in node.reads):
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
        for node in reversed(self.nodes[: self.rank[upper] + 1]):
            if node in frontier:
                passing = [r.source for r in node.reads if self._passes(node, r, upper, responding)]
                edges[node] = tuple(passing)
                below = (self.source_node(node, source) for source in passing)
                frontier.update(n for n in below if n is not None)
        return Sweep(upper, tuple(edges)[1:], edges)

    def _walks(self, upper: Problem, still: Container[Node]) -> list[tuple[Node, Node]]:
        """The reads on all ways from a problem to its variables, if all levels below it moved.

        A sweep only goes down. Here the variable of a higher problem is followed as well, up to the
        problem over it, if that is below `upper`: a way that does so is what nests levels.

        Returns:
            Pairs (reader, the problem or signal that it reads).
        """
        below = [n for n in self.nodes[: self.rank[upper]] if n not in still]

        def followed(node: Node) -> list[Node]:
            sources = [r.source for r in node.reads if not r.stopped and r.source not in upper.over]
            found = [self.source_node(node, s) or self.owner[s] for s in sources]
            return [n for n in found if n is not node and n in below]

        reacting: set[Node] = set()
        grown = [n for n in below if any(r.source in upper.over and not r.stopped for r in n.reads)]
        while grown:
            reacting.update(grown)
            grown = [n for n in below if n not in reacting and not reacting.isdisjoint(followed(n))]
        reached: list[Node] = [upper]
        walks: list[tuple[Node, Node]] = []
        for reader in reached:
            for node in followed(reader):
                if node in reacting:
                    walks.append((reader, node))
                    if node not in reached:
                        reached.append(node)
        return walks

    # Checks, in the order in which their messages are the most helpful.

    def _check_nodes(self) -> None:
        seen: set[Node] = set()
        for node in self.nodes:
            if not isinstance(node, Node):
                raise GraphError(
                    f"Engine: its list holds a {type(node).__name__}; it takes problems and "
                    "signals. Is a function not decorated?"
                )
            if node in seen:
                raise GraphError(f"{node.name} is listed twice; list each problem and signal once.")
            seen.add(node)
        if not any(isinstance(n, Problem) for n in self.nodes):
            raise GraphError("Engine: the list holds no problem.")

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

    def _check_reads(self) -> None:
        for node in self.nodes:
            for read in node.reads:
                source = read.source
                if isinstance(source, Variable):
                    if source not in self.owner:
                        raise GraphError(
                            f"{node.name} reads {source.name}, and no problem of the list is over "
                            "it. List the problem over it; a constant network needs no variable."
                        )
                elif isinstance(source, Problem):
                    raise GraphError(
                        f"{node.name} reads the problem {source.name}; read its variable instead."
                    )
                elif source not in self.rank:
                    raise GraphError(
                        f"{node.name} reads the signal {source.name}, which is not in the list; "
                        f"list it below {node.name}."
                    )
                elif self.rank[source] >= self.rank[node]:
                    raise GraphError(
                        f"{node.name} reads the signal {source.name}, which is listed above it; "
                        f"list it below {node.name}."
                    )

    def _check_parameters(self) -> None:
        holder: dict[int, tuple[Variable, str]] = {}
        for v in self.variables:
            for name, p in v.named_parameters().items():
                if id(p) in holder:
                    other, other_name = holder[id(p)]
                    raise GraphError(
                        f"the parameter {_path(v, name)} is also {_path(other, other_name)}: a "
                        "parameter belongs to one variable. Tie parameters inside one variable, or "
                        "copy it."
                    )
                holder[id(p)] = (v, name)
        optimizers: dict[int, Problem] = {}
        for p in self.problems:
            other = optimizers.setdefault(id(p.optimizer), p)
            if p.optimizer is not None and other is not p:
                raise GraphError(
                    f"{p.name} and {other.name} share one optimizer; give each its own."
                )

    def _check_missing_methods(self) -> None:
        """A response that nobody chose a method for is an error, never silently first order."""
        if self._default is not None:
            return
        still = {p for p in self.problems if p.hypergrad is not None and not p.hypergrad.responds}
        for upper in self.problems:
            for _, node in self._walks(upper, still):
                if isinstance(node, Problem) and node.hypergrad is None:
                    raise GraphError(
                        f"{upper.name} reads {_names(node)} (or what depends on it), the solution "
                        f"of {node.name}, which depends on {_names(upper)}, the variable that "
                        f"{upper.name} minimises. Say how gradients pass through {node.name}: "
                        "hypergrad=OneStep(...), or Frozen() to ignore the response; or give the "
                        "engine a default, Engine(..., hypergrad=...)."
                    )

    def _check_solutions(self) -> None:
        """Every method that some reader will ask for a solution must be able to give it."""
        for reader in self.nodes:
            for read in reader.reads:
                below = self.source_node(reader, read.source)
                if isinstance(below, Problem) and self.methods[below].moves:
                    self.methods[below].check(below.name, below.optimizer)
                    if below.repeat > 1:
                        raise GraphError(
                            f"{reader.name} reads the solution of {below.name}, which makes "
                            f"{below.repeat} updates in a step, while its method sees one. Set "
                            f"repeat=1, or hypergrad=Frozen() on {below.name}."
                        )
                    if self.sweeps[below].nodes:
                        raise GraphError(
                            f"nested levels: {reader.name} reads the solution of {below.name}, "
                            f"whose gradient comes back through {self.sweeps[below].nodes[-1].name}"
                            f"; {type(self.methods[below]).__name__} does not support this. Set "
                            f"hypergrad=Frozen() on {below.name}, or wrap its reads in "
                            "mlopt.stop()."
                        )

    def _check_nesting(self) -> None:
        still = {p for p, m in self.methods.items() if not m.responds}
        for upper in self.problems:
            for lower, middle in self._walks(upper, still):
                if isinstance(middle, Problem) and self.rank[middle] > self.rank[lower]:
                    what = "problem" if isinstance(lower, Problem) else "signal"
                    raise GraphError(
                        f"nested levels: {upper.name} differentiates through {middle.name}, whose "
                        f"variable {_names(middle)} the lower {what} {lower.name} responds to. "
                        f"{type(self.methods[middle]).__name__} does not support this. If they "
                        "play on one level, set hypergrad=Frozen() on a problem between them; if "
                        f"{lower.name} should read the new value, list it above {middle.name}; or "
                        "wrap the read in mlopt.stop()."
                    )

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


def _names(problem: Problem) -> str:
    return ", ".join(v.name for v in problem.over)


def _path(variable: Variable, name: str) -> str:
    return f"{variable.name}.{name}" if name else variable.name

"""`Graph`: what a list of problems means, checked and drawn."""

from __future__ import annotations

from collections.abc import Sequence

from .._arguments import from_one, take
from .._errors import GraphError
from ..hypergrad import Frozen
from ..hypergrad.interface import AbstractHypergradient
from .brief import brief
from .drawing import mermaid, text
from .group import Group, flatten
from .levels import Levels
from .node import Node
from .numbers import check_numbers, numbers_of
from .optimizers import check_steps
from .parts import taken_in_parts
from .picture import picture
from .refusals import (
    check_missing_methods,
    check_modules,
    check_nodes,
    check_parameters,
    check_reads,
    check_solutions,
)
from .stacking import check_stacks, take_apart

__all__ = ["Graph"]


class Graph(Levels):
    """Problems and signals in the order of their nesting, lowest first; checked when made.

    A node *responds* to a variable if its value depends on it, directly or through lower nodes that
    respond. A problem *anticipates* the lower nodes that respond to its variables and that it
    reads, directly or through others.

    Args:
        entries: problems, signals and groups of them, from the lowest level to the highest.
        default: the method of problems that name none.
        parts: in how many parts batches are taken, see `Engine`.
        ranks: by how many processes, likewise.

    Attributes:
        in_parts: the nodes that are evaluated so.

    Raises:
        GraphError: the list is not such a graph; the message names the node and what to do.
    """

    def __init__(
        self,
        entries: Sequence[Node | Group],
        default: AbstractHypergradient | None = None,
        parts: int = 1,
        ranks: int = 1,
    ) -> None:
        if default is not None and not isinstance(default, AbstractHypergradient):
            raise GraphError(f"Graph: default= takes a method such as OneStep(), got {default!r}.")
        if default is not None and default.reads:
            names = " and ".join(v.name for v in default.reads)
            raise GraphError(
                f"Engine: hypergrad={brief(default)} reads {names}, which is an edge of the graph: "
                "give it to each problem that starts there, problem(..., hypergrad=...)."
            )
        parts = take(GraphError, "Graph", "parts", parts, int, from_one)
        ranks = take(GraphError, "Graph", "ranks", ranks, int, from_one)
        nodes, groups = flatten(entries)
        check_nodes(nodes)
        super().__init__(nodes, groups)
        check_reads(self)
        check_modules(self)
        check_parameters(self)
        self.numbers.update(numbers_of(self))
        self.default = default
        # The default is for problems whose solution somebody above reads; a top one makes its
        # ordinary update.
        read = {r.source for n in self.nodes for r in n.reads if self.source_node(n, r.source)}
        self.methods.update(
            (p, p.hypergrad or (default if read.intersection(p.over) else None) or Frozen())
            for p in self.problems
        )
        for game in dict.fromkeys(g for g in self.games.values() if g.traced):
            self.methods.update(game.methods())
        self.declared = dict(self.methods)
        check_stacks(self)
        self.parts = parts
        self.in_parts = taken_in_parts(self.nodes) if parts > 1 else frozenset[Node]()
        if parts > 1 or ranks > 1:
            take_apart(self)
        if default is None:
            check_missing_methods(self)
        self.sweeps.update((p, self.sweep(p)) for p in self.problems)
        check_solutions(self)
        check_steps(self)
        check_numbers(self)

    def _check_optimizers(self) -> None:
        """Look anew at the options of optimizers, and which of their numbers are variables.

        Raises:
            GraphError: one is not declared, or does not go with its problem's method.
        """
        check_steps(self)
        self.numbers.clear()
        self.numbers.update(numbers_of(self))
        check_numbers(self)

    def _check_options(self) -> None:
        """Refuse options of problems with which this graph could not be made.

        Raises:
            GraphError: a group's members, or a method and its problem, do not go together.
        """
        for group in self.groups:
            group._check_options()
        check_solutions(self)

    def __str__(self) -> str:
        return text(self)

    def _repr_html_(self) -> str:
        return picture(self)

    def mermaid(self) -> str:
        """The graph as a Mermaid flowchart: solid edges pass gradients, dotted ones do not.

        Returns:
            Mermaid source, for Markdown pages and notebooks.
        """
        return mermaid(self)

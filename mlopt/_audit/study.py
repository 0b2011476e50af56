"""What the parts of one audit share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from .._engine.engine import Engine
from .._evaluation.causes import Cause
from .._evaluation.point import Evaluator
from .._graph.node import Node
from .._graph.problem import Problem
from .dependence import Dependence
from .findings import Finding
from .probe import Probe
from .run import Run
from .solutions import solution
from .values import Values

__all__ = ["LARGE", "Study", "line"]

LARGE = 1e-2  # a relative error that no rounding explains


class Study:
    """One audit while it is made: the engine, the options, and what was found so far.

    Attributes:
        depends: who depends on whom.
        evaluator: calls the functions, and counts for the audit alone.
        double: whether the comparison is made in float64.
        wide: whether all that functions read is held in float64.
        casts: the dtypes in which functions compute all the same.
        findings: the rows.
        texts: what to know about them.
        causes: faults in what the functions do.
        put_back: what the functions can reach, past their arguments, as it was.
        kinked: labels of rows that kinks explain.
        seen: edges that have a row, as (lower problem, source).
        read: nodes whose reads have been looked at.
        bent: those whose value is another each time, whose gradient is not that of their values, or
            whose second derivatives are wrong: of them differences say nothing.
        twice: those whose second derivatives have been looked at.
        shallow: those in which double backward is no second derivative.
        settled: players in equilibrium whose distance from it has been looked at.
        radii: questions about a difference product, asked when its edges are done.
    """

    def __init__(
        self,
        engine: Engine,
        directions: int,
        cotangents: int,
        seed: int,
        dense_limit: int,
        causes: list[Cause],
        put_back: Callable[[], None],
    ) -> None:
        self.engine, self.graph = engine, engine.graph
        self.directions, self.cotangents, self.seed = directions, cotangents, seed
        self.dense_limit = dense_limit
        self.depends = Dependence(engine.graph, engine._active()[1])
        self.lowers = [p for p in self.graph.problems if self.graph.methods[p].responds]
        self.texts: list[str] = []
        self.causes, self.put_back = causes, put_back
        self._begun: list[Evaluator] = []
        self.begin(wide=True)

    def release(self) -> None:
        """End what an interrupt has kept from ending."""
        for evaluator in self._begun:
            evaluator.release()

    def begin(self, wide: bool, casts: Mapping[Node, torch.dtype] = MappingProxyType({})) -> None:
        """Compare from the start: rows and spare buffers are of one precision."""
        self.wide, self.casts, self.double = wide, casts, wide and not casts
        known = self.engine._evaluator
        self.evaluator = Evaluator(self.graph.nodes, self.graph.variables, known.cuda)
        self._begun.append(self.evaluator)
        self.evaluator.learn(known)
        self.findings: list[Finding] = []
        self.kinked: list[str] = []
        self.seen: set[tuple[Problem, Any]] = set()
        self.settled: set[tuple[Problem, ...]] = set()
        self.read: set[Node] = set()
        unsteady = {c.where for c in self.causes if c.kind == "state"}
        self.bent: set[Node] = {n for n in self.graph.nodes if self.graph.labels[n] in unsteady}
        self.twice: set[Problem] = set()
        self.shallow: set[Problem] = set()
        self.radii: list[tuple[Any, ...]] = []

    def is_half(self, node: Node) -> bool:
        """Whether a function computes in so few digits that no difference tells anything."""
        known = self.casts if self.wide else self.evaluator.narrow
        return node in known and torch.finfo(known[node]).bits < 32

    def cause(self, kind: str, node: Node, text: str) -> None:
        """List a fault, in the place of what the first check says of it, which looks less close."""
        where = self.graph.labels[node]
        kept = [c for c in self.causes if c.refused or (c.kind, c.where) != ("backward", where)]
        self.causes[:] = kept if kind == "backward" else self.causes
        self.causes.append(Cause(kind, where, text))

    def label(self, problem: Problem, source: Any = None) -> str:
        """Of a row: an edge's, or that of a problem's hypergradient."""
        name = self.graph.labels[problem]
        if source is not None:
            return f"{name} -> {source.name}"
        return f"{name}: {', '.join(v.name for v in problem.over)}"

    def values(self, made: Run) -> Values:
        """Of the graph, on a run's batches."""
        step = made.step
        return Values(
            self.depends,
            self.evaluator,
            step.batches.inside,
            self.engine.seed_of,
            self.dense_limit,
            solution,
        )

    def probe(self, lower: Problem) -> Probe:
        """A problem's method, to be listened to."""
        return Probe(
            self.graph.methods[lower],
            self.evaluator,
            self.cotangents,
            self.seed + self.lowers.index(lower),
        )


def line(error: BaseException) -> str:
    """The first line of an error's message."""
    return " ".join(str(error).split("\n")[0].split())[:200]

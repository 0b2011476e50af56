"""`Residuals`: how well the solvers of a step have solved."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from .._errors import ConvergenceWarning
from .._graph.graph import Graph
from .._graph.problem import Problem
from .watch import Care

__all__ = ["LIMIT", "Residuals"]

#: A larger relative residual is warned of: a tenth of b or more is left. The error of x may exceed
#: it by as much as the condition of A, so that no limit is a safe one.
LIMIT = 0.1


class Residuals:
    """The largest relative residual |b - A x| / |b| of each problem, of all its solves in a step.

    Solvers know it on the host by their last product, or by one that they count: nothing more is
    asked of the device.
    """

    def __init__(self) -> None:
        self._largest: dict[Problem, tuple[float, str]] = {}

    def note(self, problem: Problem, residual: float, solver: str) -> None:
        """Take the residual of one solve.

        Args:
            problem: whose pullback or solution asked for it.
            residual: relative to the right-hand side.
            solver: which it was; empty if it has warned itself.
        """
        if not residual <= self._largest.get(problem, (-1.0, ""))[0]:  # NaN too
            self._largest[problem] = residual, solver

    def report(self, graph: Graph, metrics: dict[str, Any], care: Care) -> None:
        """Put them among the metrics, and warn of large ones, once for each problem.

        Args:
            graph: knows the problems' labels.
            metrics: of the step.
            care: remembers the problems that were warned of.
        """
        for problem, (residual, solver) in self._largest.items():
            label = graph.labels[problem]
            metrics.setdefault(f"{label}/residual", torch.tensor(residual, dtype=torch.float64))
            if residual <= LIMIT or not solver or problem in care.unsolved:
                continue
            care.unsolved.add(problem)
            warnings.warn(
                f"{label}: {solver} ends with a relative residual |b - A x| / |b| of "
                f"{residual:.2g}, above {LIMIT:g}: the hypergradient through {label} lacks much "
                "of what comes from directions of small curvature. Give the solver more steps or a "
                "higher rank, take another one (Dense() where it fits), or add damping. The metric "
                f'"{label}/residual" shows it at every step; this is said once.',
                ConvergenceWarning,
                stacklevel=2,
            )

"""Graphs that the audit is tried on, and what its reports say."""

from __future__ import annotations

from typing import Any

import torch
from case_graphs import GraphRow, parameter
from cases import GRAPHS, METHODS
from compare import near, rounding

import mlopt
from mlopt import (
    Audit,
    Finding,
    OneStep,
)

CPU = torch.device("cpu")
ROWS = {row.name: row for row in METHODS}
EXACT = [
    "one_step_lr", "one_step_momentum", "one_step_nesterov", "one_step_maximize", "one_step_adam",
    "one_step_adamw", "stop_gradient_own", "sama_sgd", "sama_adam",
]  # fmt: skip


#: The audit's own differences, extrapolated from 1e-3 and 1e-4, of values that are at most 45,000
#: times as large as their slopes.
DIFFERENCES = rounding(1, condition=45_000) / 1e-4


def right(error: float, bound: float = DIFFERENCES) -> None:
    """That an error of a report is none."""
    near(error, 0.0, bound, scale=1.0, why="the differences of the audit: rounding / radius")


def graph(name: str, row: str = "one_step_momentum", **methods: Any) -> GraphRow:
    made = ROWS[row]
    return GRAPHS[name](CPU, methods.get("method", made.method), made.optimizer)


def engine(row: GraphRow) -> mlopt.Engine:
    return mlopt.Engine(row.nodes)


def only(report: Audit, kind: str) -> list[Finding]:
    return [f for f in report.findings if f.kind == kind]


def worst(report: Audit, kind: str) -> float:
    return max(f.error for f in only(report, kind))


def three_levels(method: Any = OneStep(lr=0.1)) -> mlopt.Engine:  # noqa: B008
    """The middle problem steers the bottom one; everything is more than quadratic."""
    W, M, A = (mlopt.Variable(parameter(CPU, 10 + i, 3), n) for i, n in enumerate("wma"))

    @mlopt.problem(over=W, given=[M], hypergrad=method)
    def bottom(w, m):
        return (torch.cosh(w - m) + w**2 * torch.sin(m)).sum()

    @mlopt.problem(over=M, given=[W, A], hypergrad=method)
    def middle(m, w, a):
        return (torch.cosh(m - a) + torch.sin(w) * w * m + m**2 * a * w).sum()

    @mlopt.problem(over=A, given=[M, W])
    def top(a, m, w):
        return (m**2 * a + torch.sin(m + w)).sum()

    return mlopt.Engine([bottom, middle, top])

"""The audit passes right graphs, and says what it compared."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from audit.audited import CPU, DIFFERENCES, EXACT, engine, graph, only, right, worst
from case_graphs import parameter, tensor
from cases import Recorder
from compare import exact, near
from grids import thinned
from nested_graphs import draw_nested
from nested_oracle import Nested, Optimum, settle
from oracles import sweep_rounding
from small import batches, mlp
from sweep.nested_methods import draw_steps, hypergradients, implicit, steps, strict
from torch import nn

import mlopt
from mlopt import (
    Dense,
    Implicit,
    OneStep,
    Unrolled,
    ZerothOrder,
    audit,
)


@pytest.mark.parametrize(
    ("name", "row"), thinned(3, ["bilevel_tensor", "bilevel_module", "signals", "ladder"], EXACT)
)
def test_right_graphs_pass(name: str, row: str) -> None:
    report = audit(engine(graph(name, row)))
    right(report.worst)
    assert report.warnings == ()
    report.check()


def test_every_edge_has_a_row() -> None:
    report = audit(engine(graph("lfm_cw")))
    assert [f.edge for f in only(report, "edge")] == [
        "stage1 -> a",
        "generator -> a",
        "stage2 -> a",
        "stage2 -> class_losses",
        "stage2 -> synthetic",
    ]
    assert [f.edge for f in only(report, "total")] == ["stage3: a"]
    right(report.worst)
    assert report.precision == "float64"
    assert report.rounding == 0.0


def test_passes_and_time() -> None:
    report = audit(engine(graph("bilevel_tensor", "one_step_central")))
    (edge,) = only(report, "edge")
    assert (edge.took.evaluations, edge.backwards) == (2, 2)
    assert edge.took.milliseconds > 0
    assert edge.took.peak_bytes is None
    (total,) = only(report, "total")
    assert (total.took.evaluations, total.backwards) == (4, 4)
    assert "2/2" in str(report)


@pytest.mark.parametrize(
    "first", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(5, 30, 5))]
)
def test_nested_steps(first: int) -> None:
    for seed in range(first, first + 5):
        nodes, _, _ = draw_nested(seed, draw_steps, method_of=steps)
        right(audit(mlopt.Engine(nodes), directions=2).worst, 10 * DIFFERENCES)


@pytest.mark.parametrize("seed", [1, 2, 5, 10])
def test_nested_optima(seed: int) -> None:
    nodes, kinds, _ = draw_nested(seed, lambda rng: Optimum(), method_of=implicit)
    settle(nodes, kinds)
    oracle = Nested(nodes, kinds)
    hypergradients(oracle, nodes)
    assert strict(oracle)
    report = audit(mlopt.Engine(nodes))
    right(report.worst, 20 * DIFFERENCES)  # a Hessian is solved with as well
    assert not any("stand" in text for text in report.warnings)


@pytest.mark.parametrize(
    "method",
    [
        Unrolled(4),
        Unrolled(5, recompute=True),
        Unrolled(4, truncate=2),
        ZerothOrder(OneStep(lr=0.3), samples=400, radius=1e-4),
    ],
)
def test_other_methods(method: Any) -> None:
    report = audit(engine(graph("bilevel_tensor", method=lambda: method)))
    if isinstance(method, ZerothOrder):
        spread = ((3 + 1) / 400) ** 0.5
        near(report.worst, 0.0, 5 * spread, scale=1.0, why="five standard errors of 400 samples")
    else:
        right(report.worst)


def test_steps_on_batches_of_their_own_from_another_variable() -> None:
    W = mlopt.Variable(mlp(1), "w")
    I = mlopt.Variable(mlp(2), "i")  # noqa: E741
    adam = torch.optim.Adam(W.parameters(), lr=0.05)

    @mlopt.problem(over=W, data=batches(5, seed=1), optimizer=adam, hypergrad=Unrolled(3, init=I))
    def fit(w, batch):
        x, y = batch
        return ((w(torch.nn.functional.dropout(x, 0.2)) - y) ** 2).mean()

    @mlopt.problem(over=I, given=[W], data=batches(5, seed=2))
    def meta(i, w, batch):
        x, y = batch
        return ((w(x) - y) ** 2).mean() + 0.01 * sum((p**2).sum() for p in i.parameters())

    report = audit(mlopt.Engine([fit, meta]))
    assert [f.edge for f in report.findings] == ["fit -> i", "meta: i"]
    right(report.worst, 10 * DIFFERENCES)


def ridge(seed: int, solver: Any, near: float = 0.0, damping: float = 0.0) -> mlopt.Engine:
    """A quadratic lower problem, `near` away from its optimum."""
    x, y = tensor(CPU, seed, 12, 5), tensor(CPU, seed + 1, 12)
    r = parameter(CPU, seed + 2, 5)
    hessian = 2 * (x.T @ x / 12 + r.detach().exp().diag())
    optimum = torch.linalg.solve(hessian, 2 * x.T @ y / 12)
    W = mlopt.Variable(nn.Parameter(optimum + near * tensor(CPU, 3, 5)), "w")
    R = mlopt.Variable(r, "r")

    @mlopt.problem(over=W, given=[R], hypergrad=Implicit(solver, damping=damping))
    def lower(w, r):
        return ((x @ w - y) ** 2).mean() + (r.exp() * w**2).sum()

    @mlopt.problem(over=R, given=[W])
    def upper(r, w):
        return ((w - 1) ** 2).sum() + 0.1 * (r**2).sum()

    return mlopt.Engine([lower, upper])


@pytest.mark.parametrize("limit", [2000, 2])
def test_implicit(limit: int) -> None:
    """By a matrix, and by conjugate gradients where it would be too large."""
    report = audit(ridge(5, Dense()), dense_limit=limit)
    assert [f.oracle for f in report.findings] == ["exact", "re-solved"]
    right(report.worst)
    assert report.warnings == ()


def test_an_optimum_that_is_far_away() -> None:
    report = audit(ridge(5, Dense(), near=0.3))
    right(worst(report, "edge"))  # the law holds where it stands
    assert worst(report, "total") > 1e-2  # but that is not the hypergradient
    assert any("Implicit takes its standing value" in text for text in report.warnings)
    assert any("Alternate" in text for text in report.warnings)


def test_a_solver_that_stops_early_and_damping() -> None:
    report = audit(ridge(5, mlopt.CG(max_steps=1)))
    assert worst(report, "edge") > 1e-3
    assert any("more steps" in text for text in report.warnings)
    report = audit(ridge(5, Dense(), damping=0.5))
    right(worst(report, "edge"))
    assert worst(report, "total") > 1e-2
    assert any("damped" in text for text in report.warnings)


def test_a_method_known_by_its_values_alone() -> None:
    """No exact product then: differences of its solution."""
    row = graph("bilevel_module", method=lambda: Recorder(OneStep(lr=0.5)))
    report = audit(engine(row))
    assert [f.oracle for f in report.findings] == ["differences", "differences"]
    right(report.worst)


def test_more_cotangents() -> None:
    right(audit(engine(graph("lfm_cw")), cotangents=3, directions=5, seed=4).worst)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["one-sided", "exact"])
def test_lfm_cw_on_supernets(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ReLU, BatchNorm, noise, a shared discriminator, float32."""
    monkeypatch.syspath_prepend("benchmarks")
    import lfm_cw_step

    with warnings.catch_warnings(), torch.random.fork_rng():
        made, _ = lfm_cw_step.engine(lfm_cw_step.World.make("tiny", "cpu"), variant)
        report = audit(made)
    print(report)
    assert len(only(report, "edge")) == 5
    assert any(text.startswith("Kinks") for text in report.warnings)
    if variant == "exact":
        exact(
            worst(report, "edge"), 0.0, sweep_rounding(7, operations=500, condition=20), scale=1.0
        )

"""The audit: right graphs pass, every planted error is caught, and nothing is changed."""

from __future__ import annotations

import copy
import random
import warnings
from dataclasses import dataclass, replace
from typing import Any

import cases
import numpy as np
import pytest
import torch
from cases import METHODS, Recorder, parameter, tensor
from nested_graphs import draw_nested
from nested_oracle import Optimum, settle
from small import assert_same, batches, bilevel, mlp, state_of
from test_nested_graphs import draw_steps, implicit, steps, strict
from torch import nn

import mlopt
from mlopt import (
    Audit,
    AuditError,
    Central,
    Dense,
    Exact,
    Finding,
    Implicit,
    OneSided,
    OneStep,
    Unrolled,
    ZerothOrder,
    audit,
)
from mlopt._graph.graph import Graph
from mlopt._sweep.total import TotalObjectives

CPU = torch.device("cpu")
ROWS = {row.name: row for row in METHODS}
EXACT = [
    "one_step_lr", "one_step_momentum", "one_step_nesterov", "one_step_maximize", "one_step_adam",
    "one_step_adamw", "stop_gradient_own", "sama_sgd", "sama_adam",
]  # fmt: skip


def graph(name: str, row: str = "one_step_momentum", **methods: Any) -> cases.GraphRow:
    made = ROWS[row]
    return getattr(cases, name)(CPU, methods.get("method", made.method), made.optimizer)


def engine(row: cases.GraphRow) -> mlopt.Engine:
    return mlopt.Engine(row.nodes)


def only(report: Audit, kind: str) -> list[Finding]:
    return [f for f in report.findings if f.kind == kind]


def worst(report: Audit, kind: str) -> float:
    return max(f.error for f in only(report, kind))


# Right graphs pass.


@pytest.mark.parametrize("row", EXACT)
@pytest.mark.parametrize("name", ["bilevel_tensor", "bilevel_module", "signals", "ladder"])
def test_right_graphs_pass(name: str, row: str) -> None:
    report = audit(engine(graph(name, row)))
    assert report.worst < 1e-7
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
    assert report.worst < 1e-7
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


@pytest.mark.parametrize("first", [0, 10, 20])
def test_nested_steps(first: int) -> None:
    for seed in range(first, first + 10):
        nodes, _, _ = draw_nested(seed, draw_steps, method_of=steps)
        assert audit(mlopt.Engine(nodes), directions=2).worst < 1e-6, seed


@pytest.mark.parametrize("seed", [1, 2, 5, 10])
def test_nested_optima(seed: int) -> None:
    nodes, kinds, _ = draw_nested(seed, lambda rng: Optimum(), method_of=implicit)
    settle(nodes, kinds)
    assert strict(nodes, kinds)
    report = audit(mlopt.Engine(nodes))
    assert report.worst < 2e-6
    assert not any("stand" in text for text in report.warnings)


@pytest.mark.parametrize(
    "method",
    [
        Unrolled(4),
        Unrolled(5, recompute=True),
        Unrolled(4, truncate=2),
        ZerothOrder(OneStep(lr=0.3), samples=1000, radius=1e-4),
    ],
)
def test_other_methods(method: Any) -> None:
    report = audit(engine(graph("bilevel_tensor", method=lambda: method)))
    assert report.worst < (0.3 if isinstance(method, ZerothOrder) else 1e-7)


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
    assert report.worst < 1e-6


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
    assert report.worst < 1e-7
    assert report.warnings == ()


def test_an_optimum_that_is_far_away() -> None:
    report = audit(ridge(5, Dense(), near=0.3))
    assert worst(report, "edge") < 1e-7  # the law holds where it stands
    assert worst(report, "total") > 1e-2  # but that is not the hypergradient
    assert any("Implicit takes its standing value" in text for text in report.warnings)
    assert any("Alternate" in text for text in report.warnings)


def test_a_solver_that_stops_early_and_damping() -> None:
    report = audit(ridge(5, mlopt.CG(max_steps=1)))
    assert worst(report, "edge") > 1e-3
    assert any("more steps" in text for text in report.warnings)
    report = audit(ridge(5, Dense(), damping=0.5))
    assert worst(report, "edge") < 1e-7
    assert worst(report, "total") > 1e-2
    assert any("damped" in text for text in report.warnings)


def test_a_method_known_by_its_values_alone() -> None:
    """No exact product then: differences of its solution."""
    row = graph("bilevel_module", method=lambda: Recorder(OneStep(lr=0.5)))
    report = audit(engine(row))
    assert [f.oracle for f in report.findings] == ["differences", "differences"]
    assert report.worst < 1e-7


# Planted errors.


@dataclass(frozen=True)
class Scaled(OneStep):
    """A pullback that is off by a factor."""

    factor: float = 1.0

    def pullback(self, response: Any, cotangent: Any, wanted: Any) -> Any:
        found = super().pullback(response, cotangent, wanted)
        return {k: self.factor * t for k, t in found.items()}


@dataclass(frozen=True)
class Foreign(mlopt.AbstractHypergradient):
    """A method of the user's own, whose pullback is off by a factor."""

    factor: float
    moves, responds, cost = True, True, mlopt.Cost(keeps_graph=True)

    def check(self, name: str, optimizer: Any) -> None:
        pass

    def solution(self, response: Any) -> Any:
        return OneStep(lr=0.5).solution(response)

    def pullback(self, response: Any, cotangent: Any, wanted: Any) -> Any:
        found = OneStep(lr=0.5).pullback(response, cotangent, wanted)
        return {k: self.factor * t for k, t in found.items()}


@pytest.mark.parametrize("make", [lambda f: Scaled(lr=0.5, factor=f), Foreign])
@pytest.mark.parametrize(("factor", "cosine"), [(2.0, 1.0), (-1.0, -1.0), (1.001, 1.0)])
@pytest.mark.parametrize("name", ["bilevel_tensor", "signals"])
def test_a_factor_in_the_pullback(name: str, make: Any, factor: float, cosine: float) -> None:
    report = audit(engine(graph(name, method=lambda: make(factor))))
    for f in only(report, "edge"):
        assert f.error == pytest.approx(abs(factor - 1), rel=1e-4)
        assert f.cosine == pytest.approx(cosine)
        assert f.ratio == pytest.approx(abs(factor), rel=1e-4)
    assert worst(report, "total") > 1e-5
    with pytest.raises(AssertionError, match="relative error"):
        report.check(1e-5)
    with pytest.raises(mlopt.MloptError):
        report.check(1e-5)


def two_readers() -> mlopt.Engine:
    """A lower problem that reads two variables of one shape; a signal on the way of one."""
    W, A, B = (mlopt.Variable(parameter(CPU, i, 3), n) for i, n in enumerate("wab"))

    @mlopt.signal(given=[B])
    def bent(b):
        return torch.sin(2 * b)

    @mlopt.problem(over=W, given=[A, bent], hypergrad=OneStep(lr=0.4))
    def lower(w, a, bent):
        return (torch.cosh(w - a) + w**3 * bent / 4 + torch.tanh(w) * a * bent).sum()

    @mlopt.problem(over=[A, B], given=[W])
    def upper(ab, w):
        return (w**2 * ab[0] + torch.sin(w) * ab[1]).sum()

    return mlopt.Engine([bent, lower, upper])


def test_swapped_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    audit(two_readers()).check()
    plain = Exact.mixed

    def swapped(self: Any, response: Any, direction: Any, wanted: Any) -> Any:
        found = plain(self, response, direction, wanted)
        return dict(zip(found, reversed(found.values()), strict=True))

    monkeypatch.setattr(Exact, "mixed", swapped)
    report = audit(two_readers())
    assert all(f.error > 0.1 for f in report.findings)


def test_a_dropped_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    """No edge is wrong, only the whole: what arrives at one variable is lost."""
    plain = Graph.sweep

    def dropping(self: Any, upper: Any, dormant: Any = ()) -> Any:
        sweep = plain(self, upper, dormant)
        edges = {n: s for n, s in sweep.edges.items() if n.name != "bent"}
        return replace(sweep, nodes=tuple(n for n in sweep.nodes if n in edges), edges=edges)

    monkeypatch.setattr(Graph, "sweep", dropping)
    made = two_readers()
    bent, lower, _ = made.graph.nodes
    edges = made.graph.sweep(made.graph.problems[-1]).edges
    assert bent not in edges
    assert lower in edges
    report = audit(made)
    assert worst(report, "edge") < 1e-7
    assert worst(report, "total") > 0.05
    assert any("no edge shows" in text for text in report.warnings)


def test_the_whole_sweep_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Graph.sweep

    def nothing(self: Any, upper: Any, dormant: Any = ()) -> Any:
        return replace(plain(self, upper, dormant), nodes=(), edges={upper: ()})

    monkeypatch.setattr(Graph, "sweep", nothing)
    report = audit(engine(graph("bilevel_tensor")))
    assert only(report, "edge") == []
    assert report.worst > 0.05


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


def test_three_levels() -> None:
    report = audit(three_levels())
    assert {f.edge for f in report.findings} == {
        "bottom -> m", "middle -> a", "middle: m", "top: a",
    }  # fmt: skip
    assert report.worst < 1e-7


def test_differences_that_do_not_settle() -> None:
    """So large a step that the top objective oscillates within the smallest radius."""
    report = audit(three_levels(OneStep(lr=0.4)))
    assert worst(report, "total") > 1
    assert any("the differences themselves" in text for text in report.warnings)


def test_the_inner_second_order_term_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The middle problem takes the bottom one's solution for a constant inside its own."""
    plain = TotalObjectives._solve

    def detached(self: Any, problem: Any, scope: Any) -> Any:
        found = plain(self, problem, scope)
        if scope.frame.parent is None:
            return found
        return {v: {n: t.detach() for n, t in part.items()} for v, part in found.items()}

    monkeypatch.setattr(TotalObjectives, "_solve", detached)
    report = audit(three_levels())
    total = {f.edge: f.error for f in only(report, "total")}
    assert total["middle: m"] < 1e-7
    assert total["top: a"] > 1e-2


def test_third_derivatives_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pullback that is right, and constant where it has to be differentiated in its turn."""
    plain = Exact.mixed

    def constant(self: Any, response: Any, direction: Any, wanted: Any) -> Any:
        return {k: t.detach() for k, t in plain(self, response, direction, wanted).items()}

    monkeypatch.setattr(Exact, "mixed", constant)
    report = audit(three_levels())
    total = {f.edge: f.error for f in only(report, "total")}
    assert total["middle: m"] < 1e-7
    assert total["top: a"] > 1e-3


def test_a_function_that_hides_a_read() -> None:
    W, A = (mlopt.Variable(parameter(CPU, i, 3), n) for i, n in enumerate("wa"))

    @mlopt.problem(over=W, given=[A], hypergrad=OneStep(lr=0.4))
    def lower(w, a):
        return (torch.cosh(w - a) + w**2 * a.detach()).sum()

    @mlopt.problem(over=A, given=[W])
    def upper(a, w):
        return (w**2 * a).sum()

    report = audit(mlopt.Engine([lower, upper]))
    assert worst(report, "total") > 0.05
    assert any("detach" in text for text in report.warnings)


# What the warnings tell.


def relu_net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 1)).double()


@pytest.mark.parametrize("kinked", [True, False])
def test_kinks(kinked: bool) -> None:
    with torch.random.fork_rng():
        net = relu_net()
    if not kinked:
        net[1] = nn.Softplus()
    report = audit(bilevel(net, hypergrad=OneStep(product=Central(0.5))).engine())
    told = [text for text in report.warnings if text.startswith("Kinks")]
    assert len(told) == kinked
    if kinked:
        assert "Neither is a bug" in told[0]
        assert "fit -> a" in told[0]
        assert report.worst > 1e-2


def test_a_radius_that_is_too_large() -> None:
    report = audit(bilevel(hypergrad=OneStep(product=OneSided(2.0))).engine())
    assert worst(report, "edge") > 1e-2
    (text,) = [t for t in report.warnings if "far from the exact product" in t]
    assert "OneSided(2e-04)" in text
    good = audit(bilevel(hypergrad=OneStep(product=OneSided(2e-4))).engine())
    assert worst(good, "edge") < 1e-3
    assert good.warnings == ()


@pytest.mark.parametrize("kind", ["numpy", "python", "counter"])
def test_masks_that_differ(kind: str) -> None:
    calls = [0]
    W, A = (mlopt.Variable(parameter(CPU, i, 8), n) for i, n in enumerate("wa"))

    @mlopt.problem(over=W, given=[A], hypergrad=OneStep(lr=0.1, product=Central()))
    def lower(w, a):
        calls[0] += 1
        scale = {
            "numpy": np.random.rand(),
            "python": random.random(),
            "counter": 1 + 0.1 * (calls[0] % 2),
        }[kind]
        return scale * torch.cosh(w - a).sum()

    @mlopt.problem(over=A, given=[W])
    def upper(a, w):
        return (w**2 * a).sum()

    before = random.getstate(), np.random.get_state()[1].copy()
    report = audit(mlopt.Engine([lower, upper]))
    assert any(
        t.startswith("lower: two evaluations at one point differ") and "NumPy" in t
        for t in report.warnings
    )
    assert before[0] == random.getstate()
    assert (before[1] == np.random.get_state()[1]).all()


def test_dropout_is_no_mask_that_differs() -> None:
    net = nn.Sequential(mlp(1), nn.Dropout(0.5))
    report = audit(bilevel(net, hypergrad=OneStep()).engine())
    assert report.worst < 1e-6
    assert report.warnings == ()


# Nothing is changed.


def normalised(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_nothing_is_changed(dtype: torch.dtype) -> None:
    def data(seed: int) -> list:
        return [(x.to(dtype), y.to(dtype)) for x, y in batches(5, seed=seed)]

    made = bilevel(
        normalised(1).to(dtype),
        train=data(1),
        valid=data(2),
        hypergrad=OneStep(),
        optimizer=lambda v: torch.optim.Adam(v.parameters(), lr=0.01),
    )
    made.A.value.data = made.A.value.data.to(dtype)
    engine = made.engine(seed=3)
    engine.run(steps=2, progress=False)
    twin = copy.deepcopy(engine.graph.variables[0].value.state_dict())
    before = state_of(engine)
    gradient = engine.hypergradient(made.upper)
    places = [p.data_ptr() for v in engine.graph.variables for p in v.parameters()]
    feed = {s: (s.passes, s._drawn) for s in engine._feed.streams}
    report = audit(engine)
    assert report.worst < 1e-6
    assert_same(before, state_of(engine))
    assert_same(twin, engine.graph.variables[0].value.state_dict())
    again = engine.hypergradient(made.upper)
    for v, part in gradient.items():
        assert_same(part, again[v])
    assert places == [p.data_ptr() for v in engine.graph.variables for p in v.parameters()]
    assert feed == {s: (s.passes, s._drawn) for s in engine._feed.streams}
    assert torch.get_default_dtype() is torch.float32
    engine.run(steps=2, progress=False)


@pytest.mark.parametrize("product", [Exact(), OneSided(2.0)])  # of which other radii are tried
def test_an_audit_between_steps_leaves_the_run_alone(product: Any) -> None:
    def losses(audited: bool) -> list:
        net = normalised(1).double()
        engine = bilevel(net, hypergrad=OneStep(product=product)).engine(seed=5)
        out = []
        for _ in range(7):
            if audited:
                audit(engine, directions=1)
            out.append(engine.step()["tune/loss"].item())
        return out

    assert losses(True) == losses(False)


# Precision.


def test_float32_engines() -> None:
    """The mathematics in float64, and what float32 makes of it."""
    scale = torch.tensor([1.0, 2.0, 0.5])  # a constant that the functions close over
    W = mlopt.Variable(nn.Linear(3, 1), "w")
    A = mlopt.Variable(nn.Parameter(torch.zeros(3)), "a")
    data = [(x.float(), y.float()) for x, y in batches(3)]

    @mlopt.problem(over=W, given=[A], data=data, hypergrad=OneStep(lr=0.3))
    def lower(w, a, batch):
        x, y = batch
        return torch.tanh(w(x * scale * a.exp()) - y).square().mean()

    @mlopt.problem(over=A, given=[W], data=data)
    def upper(a, w, batch):
        x, y = batch
        return (w(x @ scale.diag()) - y).square().mean() + a.square().sum()

    report = audit(mlopt.Engine([lower, upper]))
    assert report.precision == "float64"
    assert report.worst < 1e-7
    assert 0 < report.rounding < 1e-4
    assert scale.dtype is W.value.weight.dtype is torch.float32


def test_functions_that_only_run_in_float32() -> None:
    made = bilevel(
        mlp().float(), hypergrad=OneStep(), train=[(torch.randn(4, 3), torch.randn(4, 1))]
    )
    made.A.value.data = made.A.value.data.float()
    made.train[0] = tuple(t.float() for t in made.train[0])

    @mlopt.problem(over=made.A, given=[made.W], data=made.train)
    def upper(a, w, batch):
        x, y = batch
        hidden = x.float() @ torch.ones(3, 3, dtype=torch.float32)
        return (w(hidden.to(torch.float32)) - y).square().mean() + a.square().sum()

    engine = mlopt.Engine([made.lower, upper])
    report = audit(engine)
    assert report.precision == "float32"
    assert any("do not run in float64" in text for text in report.warnings)
    assert report.worst < 0.05
    assert "compared in float32" in str(report)


# The report.


def test_the_table() -> None:
    text = str(audit(engine(graph("bilevel_tensor"))))
    head, _, *rows = text.splitlines()
    for column in ("edge", "method", "relative error", "cosine", "norm ratio", "passes", "ms"):
        assert column in head
    assert rows[0].startswith("lower -> a")
    assert rows[1].startswith("upper: a")


def test_what_cannot_be_compared_does_not_pass() -> None:
    report = Audit((Finding("edge", "x -> y", "m", "-", None),))
    assert report.worst == float("inf")
    with pytest.raises(AuditError):
        report.check(1e9)
    with pytest.raises(AuditError):
        Audit(()).check()


def test_an_engine_that_fails_is_a_row() -> None:
    W, A = (mlopt.Variable(parameter(CPU, i, 3), n) for i, n in enumerate("wa"))

    @mlopt.problem(over=W, given=[A], hypergrad=Implicit())
    def linear(w, a):
        return (w * a).sum()

    @mlopt.problem(over=A, given=[W])
    def upper(a, w):
        return (w**2 * a).sum()

    report = audit(mlopt.Engine([linear, upper]))
    assert report.worst == float("inf")
    assert any("the engine itself fails" in text for text in report.warnings)


@pytest.mark.parametrize("option", [{"directions": 0}, {"cotangents": -1}])
def test_options(option: dict) -> None:
    with pytest.raises(mlopt.SettingsError):
        audit(three_levels(), **option)


def test_more_cotangents() -> None:
    assert audit(engine(graph("lfm_cw")), cotangents=3, directions=5, seed=4).worst < 1e-7


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
        assert worst(report, "edge") < 1e-10

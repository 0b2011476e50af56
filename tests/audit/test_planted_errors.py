"""The audit catches planted errors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from audit.audited import CPU, DIFFERENCES, engine, graph, only, right, three_levels, worst
from case_graphs import parameter
from compare import near

import mlopt
from mlopt import (
    Exact,
    OneStep,
    audit,
)
from mlopt._graph.graph import Graph
from mlopt._sweep.total import TotalObjectives


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
        near(f.error, abs(factor - 1), DIFFERENCES, scale=1.0, why="rounding / radius")
        near(f.cosine, cosine, DIFFERENCES, why="rounding / radius")
        near(f.ratio, abs(factor), DIFFERENCES, why="rounding / radius")
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
    right(worst(report, "edge"))
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


def test_three_levels() -> None:
    report = audit(three_levels())
    assert {f.edge for f in report.findings} == {
        "bottom -> m", "middle -> a", "middle: m", "top: a",
    }  # fmt: skip
    right(report.worst)


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
    right(total["middle: m"])
    assert total["top: a"] > 1e-2


def test_third_derivatives_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pullback that is right, and constant where it has to be differentiated in its turn."""
    plain = Exact.mixed

    def constant(self: Any, response: Any, direction: Any, wanted: Any) -> Any:
        return {k: t.detach() for k, t in plain(self, response, direction, wanted).items()}

    monkeypatch.setattr(Exact, "mixed", constant)
    report = audit(three_levels())
    total = {f.edge: f.error for f in only(report, "total")}
    right(total["middle: m"])
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

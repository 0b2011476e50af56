"""The report of the audit: its table, its failures, its options."""

from __future__ import annotations

import pytest
from audit.audited import CPU, engine, graph, three_levels
from case_graphs import parameter

import mlopt
from mlopt import (
    Audit,
    AuditError,
    Finding,
    Implicit,
    audit,
)


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

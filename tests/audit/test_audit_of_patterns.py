"""The audit knows what the first check has found out: it raises no alarm where all is right."""

from __future__ import annotations

import pytest
from audit.audited import right
from engine.patterns import KINDS, Levels
from engine.test_model_patterns import PATTERNS

import mlopt

#: What each needs: another kernel, points entered again, gradients inside, other generators, ...
NAMES = {
    "fused attention, called": 1e-6, "checkpointed": 1e-6, "slope by its weights": 1e-6,
    "python's and numpy's draws": 1e-6, "weight norm, new": 1e-6, "complex": 1e-6,
    "scripted": 1e-6, "own function, once": 1e-3, "buffers that change": 1e-6,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in NAMES
        for kind in ("one_step", "unrolled")
        if kind == "one_step" or not PATTERNS[name].second  # that is refused
    ],
)
@pytest.mark.filterwarnings("ignore::mlopt.CapabilityWarning")
def test_no_false_alarm(name: str, kind: str) -> None:
    report = mlopt.audit(Levels(PATTERNS[name], KINDS[kind]).engine, directions=1, cotangents=1)
    right(report.worst, NAMES[name])

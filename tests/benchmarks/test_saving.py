"""The cost of saving: how often, and what counts as saving."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import mlopt
from mlopt._engine import checkpoint

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import saving  # noqa: E402


def test_only_what_is_spent_in_save_is_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which a step takes a second and a checkpoint a quarter of one."""
    now = 0.0

    def pass_by(seconds: float, work: object) -> object:
        def slow(*arguments: object) -> object:
            nonlocal now
            now += seconds
            return work(*arguments)  # type: ignore[operator]

        return slow

    monkeypatch.setattr(saving.time, "perf_counter", lambda: now)
    monkeypatch.setattr(checkpoint, "write_checkpoint", pass_by(0.25, checkpoint.write_checkpoint))
    monkeypatch.setattr(mlopt.Engine, "_take_step", pass_by(1.0, mlopt.Engine._take_step))
    output = tmp_path / "x.md"
    assert saving.main(["--examples", "darts", "--every", "2", "0", "--steps", "3",
                        "--output", str(output)]) == 0  # fmt: skip
    rows = [line for line in output.read_text(encoding="utf-8").splitlines() if "darts " in line]
    found = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    # A step is taken before the run. So it is after two steps and at the end, after four; or after
    # the first of the run, not again in a hundred times as long, and at the end.
    assert [(row[4], row[3], row[5], row[7]) for row in found] == [
        ("2", "1000.0", "250.0", "16.67 %"),
        ("2", "1000.0", "250.0", "16.67 %"),
    ]

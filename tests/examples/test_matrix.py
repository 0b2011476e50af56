"""Schemes in search spaces, through the public examples: search, derive, retrain, test.

The smallest runs are for every day, with each scheme and each space in one of them at least; their
other pairs are slow, and so are the quick presets, whose tables of results lie in
`benchmarks/results`. Those are cells of the table `matrix` of examples/experiments.py: with --runs,
finished ones are not run again.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from grids import thinned

import darts
import experiments
import lfm_cw_darts
import sgl_darts
from mlopt.nas import Genotype
from support import pipeline, settings
from support.pipeline import runs
from support.tables import read_table

SCHEMES = {"darts": darts, "lfm_cw_darts": lfm_cw_darts, "sgl_darts": sgl_darts}
SPACES = {
    "darts, first order": ("--space", "darts", "--order", "first"),
    "darts, second order": ("--space", "darts", "--order", "second"),
    "p-darts": ("--space", "p-darts", "--add-cells", "0", "1", "2"),
    "pc-darts": ("--space", "pc-darts"),
    "darts-minus": ("--space", "darts-minus"),
}
TINY = [
    "--channels", "4", "--nodes", "1", "--cells", "1", "--epochs", "1", "--warmup", "0",
    "--generator-epochs", "0", "--generator-width", "2", "--noise", "4", "--batch-size", "24",
    "--train-images", "48", "--eval-channels", "2", "--eval-cells", "1", "--eval-epochs", "1",
]  # fmt: skip

QUICK = [row.name for row in read_table("matrix").rows]


def run(example: str, folder: Path, *more: str) -> list[dict[str, float]]:
    s = settings.parse(None, ["--run-folder", str(folder), *more], example=example)
    return pipeline.run(example, SCHEMES[example].scheme, s)


def check(example: str, folder: Path, space: str, rows: list[dict[str, float]]) -> None:
    """What any run must leave behind, whatever its result."""
    row = json.loads((folder / "result.json").read_text())["rows"][0]
    assert row == rows[0]
    assert 0 <= row["test_error"] <= 100
    assert row["passes"] > 0
    title = {"darts": "", "lfm_cw_darts": "LFM-CW", "sgl_darts": "SGL"}[example]
    assert str(row["name"]).startswith(title)
    Genotype.from_json((folder / "genotype.json").read_text())
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in logged if line["phase"] == "search-epoch"]
    places = [(line["epoch"], line["step"]) for line in epochs]
    assert places == sorted(set(places))
    stages = [line.get("stage", 1) for line in epochs]
    assert sorted(set(stages)) == ([1, 2, 3] if space.startswith("p-darts") else [1])
    assert stages == sorted(stages)


@pytest.mark.parametrize(("example", "space"), thinned(3, SCHEMES, SPACES))
def test_tiny(example: str, space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the report, whose charts take most of such a run's time; other tests have it."""
    monkeypatch.setattr(runs, "write_report", str)
    rows = run(example, tmp_path / "run", *TINY, *SPACES[space])
    check(example, tmp_path / "run", space, rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_quick(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """All ten classes are told apart better than by always guessing the most frequent one."""
    folder = Path(request.config.getoption("--runs") or tmp_path)
    (cell,) = next(line.cells for line in experiments.make("matrix", folder=folder).lines
                   if line.row.name == name)  # fmt: skip
    cell.run(experiments.start)
    rows = json.loads((cell.folder / "result.json").read_text())["rows"]
    check(cell.row.example, cell.folder, cell.s.space, rows)
    assert rows[0]["test_error"] < rows[-1]["test_error"] / 2

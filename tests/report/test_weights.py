"""Architecture weights over time: the mean of each operation, and each edge by itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mlopt.report import RunFolder, figures
from mlopt.report import weights as module
from mlopt.report.run_data import RunData
from mlopt.report.weights import weights

NAMES = ["skip_connect", "sep_conv_3x3"]
EVEN, DECIDED = [[0.5, 0.5]] * 5, [[0.25, 0.75]] * 4 + [[0.9, 0.1]]


def run_of(root: Path, *tables: Any, names: Any = NAMES, learner: str = "") -> RunData:
    with RunFolder.create(root, {}) as folder:
        for epoch, table in enumerate(tables, start=1):
            metrics = {f"{learner}weights/normal": table, f"{learner}operations": names}
            folder.log("search-epoch", epoch=epoch, **metrics)
    return RunData.read(folder.root, "run")


def test_each_operation_has_its_mean_and_each_edge_its_leader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[figures.Line] = []
    monkeypatch.setattr(
        module, "line_chart", lambda lines, **_: drawn.extend(lines) or "<svg></svg>"
    )
    page = weights([run_of(tmp_path / "run", EVEN, DECIDED)])
    assert [(line.label, list(line.x)) for line in drawn] == [(name, [1, 2]) for name in NAMES]
    assert [line.y[0] for line in drawn] == [0.5, 0.5]
    assert [round(line.y[1], 12) for line in drawn] == [0.38, 0.62]  # (4 * 0.25 + 0.9) / 5
    edges = re.findall(r"<h3>([^<]* → [^<]*)</h3>.*?<p class=\"how\">(.*?)</p>", page)
    assert edges == [
        *((f"c(k-{2 - k}) → 2", "sep_conv_3x3 0.75") for k in (0, 1)),
        *((f"c(k-{2 - k}) → 3", "sep_conv_3x3 0.75") for k in (0, 1)),
        ("2 → 3", "skip_connect 0.90"),
    ]
    assert page.count("<polyline") == 5 * 2


def test_learners_are_told_apart(tmp_path: Path) -> None:
    page = weights([run_of(tmp_path / "run", EVEN, EVEN, learner="learner_2/")])
    assert "<h3>learner 2, normal cell</h3>" in page


@pytest.mark.parametrize(
    "wrong", ["text", [], [[]], [[0.5], [0.5, 0.5]], [[None, 0.5]], [["a", 1]]]
)
def test_what_is_no_table_is_passed_over(tmp_path: Path, wrong: Any) -> None:
    assert not weights([run_of(tmp_path / "only", wrong)])
    page = weights([run_of(tmp_path / "run", wrong, EVEN, DECIDED, wrong)])
    assert page.count("<polyline") == 5 * 2


@pytest.mark.parametrize("names", [None, "text", ["one"]])
def test_columns_without_names_are_not_shown(tmp_path: Path, names: Any) -> None:
    assert not weights([run_of(tmp_path / "run", EVEN, names=names)])


def test_names_are_text(tmp_path: Path) -> None:
    page = weights([run_of(tmp_path / "run", EVEN, DECIDED, names=["<b>", '"><script>'])])
    assert "<script>" not in page
    assert "<b>" not in page

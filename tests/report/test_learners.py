"""A run of several learners: their tables, and one chart for what all of them logged."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest
from compare import exact, rounding

from mlopt.report import RunFolder, write_report
from mlopt.report.curves import curves
from mlopt.report.learners import learners
from mlopt.report.run_data import RunData, lines_of, metric_of

pytest.importorskip("matplotlib")


@pytest.fixture
def group(tmp_path: Path, make_group) -> RunFolder:
    return make_group(tmp_path / "group", 3)


def cells(html: str) -> list[list[str]]:
    """The text of a table's cells, row by row."""
    rows = re.findall(r"<tr.*?</tr>", html, re.DOTALL)
    return [[unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t", row)] for row in rows]


def test_the_learners_and_what_they_share(group: RunFolder) -> None:
    html = learners(RunData.read(group.root, "SGL"))
    first, second = re.findall(r"<table .*?</table>", html, re.DOTALL)
    assert cells(first) == [
        [
            "",
            "test error, % (± standard error)",
            "validation loss",
            "entropy, normal",
            "parameters",
        ],
        ["learner 3", "3.25 ± 0.50", "0.25", "0.58", "1,234"],
        ["learner 2", "–", "0.2857", "1.08", "–"],
        ["learner 1", "–", "0.3333", "1.58", "–"],
    ]
    assert cells(second)[1:] == [
        ["learner 1 and learner 2", "0.75", "0.25", "0.10"],
        ["learner 1 and learner 3", "0.75", "0.25", "0.10"],
    ]
    assert re.findall(r"<h3>(learner \d)</h3><pre>normal cell of (\d)", html) == [
        ("learner 3", "3"),
        ("learner 2", "2"),
        ("learner 1", "1"),
    ]


def test_learners_share_a_chart(group: RunFolder) -> None:
    run = RunData.read(group.root, "SGL")
    lines = lines_of([run], "search-epoch", "validation/loss")
    assert [(line.label, line.series) for line in lines] == [
        ("learner 1", 1),
        ("learner 2", 2),
        ("learner 3", 3),
    ]
    exact([line.y[0] for line in lines], [2.0, 1.0, 2 / 3], rounding(10))
    html = curves([run])
    titles = re.findall(r"<figure><h3>(.*?)</h3>", html)
    assert titles == [
        "validation · loss",
        "entropy · normal",
        "agreement · edges",
        "agreement · total variation",
        "stage1 · loss",
        "train · loss",
    ]
    assert "learner_" not in html


def test_a_run_beside_a_group_has_a_line_in_the_same_chart(group: RunFolder) -> None:
    with RunFolder.create(group.root / "darts", {}) as darts:
        for epoch in range(3):
            darts.log("search-epoch", epoch=epoch, **{"validation/loss": 1.0 + epoch})
    runs = [RunData.read(group.root, "SGL"), RunData.read(darts.root, "DARTS")]
    lines = lines_of(runs, "search-epoch", "validation/loss")
    assert [(line.label, line.series) for line in lines] == [
        ("DARTS", 1),
        ("learner 1", 2),
        ("learner 2", 3),
        ("learner 3", 4),
    ]
    assert curves(runs).count("validation · loss") == 1


def test_the_section_stands_in_the_report(group: RunFolder) -> None:
    text = write_report(group).read_text()
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles[:3] == ["Result", "The learners", "The learned cells"]
    assert re.findall(r"<h3>(learner \d)</h3><img", text) == ["learner 1", "learner 2", "learner 3"]


@pytest.mark.parametrize(
    ("key", "metric"),
    [
        ("learner_12/validation/loss", "validation/loss"),
        ("validation/loss", "validation/loss"),
        ("learner_x/loss", "learner_x/loss"),
        ("learner_1", "learner_1"),
    ],
)
def test_a_metric_without_its_learner(key: str, metric: str) -> None:
    assert metric_of(key) == metric


@pytest.mark.parametrize(
    "content",
    [3, [1], {"learners": 3, "pairs": [7]}, {"learners": [{"name": 4}], "pairs": [{"edges": "x"}]}],
)
def test_malformed_learners_do_not_break_the_report(tmp_path: Path, content: object) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    folder.save_json("learners.json", content)
    text = write_report(folder).read_text()
    assert "What they have in common" not in text


def test_names_of_learners_are_text(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    bad = "<script>alert(1)</script>"
    pair = {"names": [bad, bad], "edges": 0.5}
    folder.save_json(
        "learners.json", {"learners": [{"name": bad, "genotype": bad}], "pairs": [pair]}
    )
    text = write_report(folder).read_text()
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 5

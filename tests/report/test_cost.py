"""What steps cost is said of each part of a search, beside what the engine planned for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from compare import exact, rounding

from mlopt.report import RunFolder
from mlopt.report.cost import cost, duration
from mlopt.report.phases import parts
from mlopt.report.run_data import RunData

ALONE, ALL = ("generator",), ("generator", "stage1", "stage3")


def logged(root: Path, rows: list[tuple[int, float, tuple[str, ...]]], **more: float) -> RunData:
    """A search of these rows: steps done, seconds since the start, what was updated."""
    with RunFolder.create(root, {}) as folder:
        for step, seconds, problems in rows:
            metrics = {f"{name}/gradient_norm": 1.0 for name in problems}
            folder.log("search", step=step, seconds=seconds, **metrics, **more)
    return RunData.read(folder.root, "run")


def text(page: str) -> list[list[str]]:
    """The cells of all tables, row by row."""
    rows = re.findall(r"<tr.*?</tr>", page, re.S)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_the_median_of_a_search_step_is_not_that_of_pretraining(tmp_path: Path) -> None:
    """Most of the steps are of the generator alone, in which a step takes a quarter of the time."""
    rows = [(10 * k, 5.0 * k, ALONE) for k in range(1, 7)]
    rows += [(60 + 10 * k, 30.0 + 22.5 * k, ALL) for k in range(1, 4)]
    run = logged(tmp_path / "run", rows)
    alone, together = parts(run)
    assert (alone.problems, together.problems) == (ALONE, ALL)
    assert (alone.steps, together.steps) == (60, 30)
    assert (alone.median, together.median) == (0.5, 2.25)
    assert (alone.seconds, together.seconds) == (30, 67.5)
    cells = text(cost([run]))
    assert ["generator", "60", "500 ms", "31 %"] in cells
    assert ["generator, stage1, stage3", "30", "2.25 s", "69 %"] in cells


def test_what_is_done_between_epochs_is_no_step(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", {}) as folder:
        for epoch in range(1, 4):  # of 5 steps of 0.2 s, then 10 s of validation with 7 passes
            folder.log(
                "search", step=5 * epoch, epoch=epoch, seconds=epoch + 10.0 * (epoch - 1),
                passes=15 * epoch + 7 * (epoch - 1), between_seconds=10.0 * (epoch - 1),
                between_passes=7 * (epoch - 1), **{"a/loss": 1.0},
            )  # fmt: skip
    (part,) = parts(RunData.read(folder.root, "run"))
    exact(part.each, [0.2] * 3, rounding(20))
    assert part.calls == [3, 3, 3]


def test_the_plan_stands_beside_what_was_measured(tmp_path: Path) -> None:
    """The plan of 10 + 10 steps: 2 + 2 and 6 + 10, a fifth and four fifths; the time: halves."""
    with RunFolder.create(tmp_path / "run", {}) as folder:
        for step, problems, cost_of in ((0, ALONE, (2, 2)), (10, ALL, (6, 10))):
            evaluations, backwards = cost_of
            folder.log("plan", step=step, evaluations=evaluations, backwards=backwards)
            for more in (5, 10):
                at = step + more
                metrics = {f"{name}/loss": 1.0 for name in problems}
                folder.log("search", step=at, seconds=at * 0.5, passes=2 * at, **metrics)
    cells = text(cost([RunData.read(folder.root, "run")]))
    assert cells[-3:] == [
        [
            "updates of", "steps", "a step takes (median)", "evaluations in a step, planned",
            "backward passes, planned", "network passes in a step", "share of the plan",
            "share of the time",
        ],
        ["generator", "10", "500 ms", "2", "2", "2", "20 %", "50 %"],
        ["generator, stage1, stage3", "10", "500 ms", "6", "10", "2", "80 %", "50 %"],
    ]  # fmt: skip


def test_stages_are_apart_although_they_update_the_same(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", {}) as folder:
        for step, stage, seconds in ((10, 1, 1.0), (20, 1, 2.0), (30, 2, 5.0), (40, 2, 8.0)):
            folder.log("search", step=step, seconds=seconds, stage=stage, **{"a/loss": 1.0})
    found = parts(RunData.read(folder.root, "run"))
    assert [(part.stage, part.steps, part.median) for part in found] == [
        (1, 20, 0.1), (2, 20, 0.3)
    ]  # fmt: skip


def test_runs_without_times_or_rows_have_no_cost(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", {}) as folder:
        folder.log("search", step=1, **{"a/loss": 1.0})
    assert not cost([RunData.read(folder.root, "run")])


def test_passes_are_explained_where_they_have_a_column_and_nowhere_else(tmp_path: Path) -> None:
    """A note under the result spoke of "Passes", of which that table has no column."""
    why = "Network passes are calls of a network"
    for name, row in (("with", {"passes": 177}), ("without", {"search_seconds": 3.0})):
        with RunFolder.create(tmp_path / name, {}) as folder:
            folder.save_json("result.json", {"rows": [{"name": "A", **row}]})
        page = cost([RunData.read(folder.root, "A")])
        assert ("network passes" in text(page)[0]) == (why in page) == (name == "with")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.691, "691 ms"), (2.214, "2.21 s"), (31.24, "31.2 s"), (600, "10.0 min"), (7200, "2.0 h")],
)
def test_durations_have_three_digits(seconds: float, said: str) -> None:
    assert duration(seconds) == said

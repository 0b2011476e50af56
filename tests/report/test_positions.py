"""All charts of a phase have one axis: epochs completed, from the beginning of the run."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from compare import exact, rounding

from mlopt.report import RunFolder
from mlopt.report.positions import positions
from mlopt.report.run_data import RunData


@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("every", [1, 3, 10])
def test_rows_of_an_engine_stand_where_its_counters_say(length: int, every: int) -> None:
    """It logs what is completed: every so many steps, and at the end of each epoch."""
    logged = [s for s in range(1, 5 * length + 1) if s % every == 0 or s % length == 0]
    rows = [{"step": s, "epoch": s // length} for s in logged]
    expected = [float(Fraction(s, length)) for s in logged]
    exact(positions(rows, each_epoch=False), expected, rounding(4))


@pytest.mark.parametrize("every", [1, 5])
def test_indices_from_zero_are_counted_as_what_they_complete(every: int) -> None:
    rows = [{"step": s, "epoch": s // 5} for s in range(0, 20, every)]
    expected = [float(Fraction(s + 1, 5)) for s in range(0, 20, every)]
    exact(positions(rows, each_epoch=False), expected, rounding(4))


@pytest.mark.parametrize(("epochs", "expected"), [([5, 10, 12], [5, 10, 12]), ([0, 1], [1, 2])])
def test_rows_of_epochs_are_at_their_ends(epochs: list[int], expected: list[int]) -> None:
    assert positions([{"epoch": e} for e in epochs], each_epoch=True) == expected


def test_class_losses_that_begin_late_have_the_axis_of_the_others(tmp_path: Path) -> None:
    """A generator is trained alone for three epochs; only then is there a loss of each class."""
    with RunFolder.create(tmp_path / "run", {}) as folder:
        for step in range(1, 25):
            late = {"class_losses": [1.0, 2.0]} if step > 12 else {}
            folder.log("search", step=step, epoch=step // 4, **{"a/loss": 1.0}, **late)
    run = RunData.read(folder.root, "run")
    loss, classes = run.line("search", "a/loss"), run.class_lines()
    assert [len(line.x) for line in classes] == [12, 12]
    for line in classes:
        assert list(line.x) == list(loss.x)[12:]
        assert (line.x[0], line.x[-1]) == (3.25, 6.0)

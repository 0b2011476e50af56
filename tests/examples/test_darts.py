"""The plain search, end to end and small."""

import pytest
from examples.small_runs import small
from grids import thinned

import darts
import mlopt
from support import pipeline


@pytest.mark.parametrize(
    ("order", "steps"), thinned(2, ["first", "second"], ["lower-first", "upper-first"])
)
def test_darts_runs_whole(tmp_path, order, steps):
    s = small(tmp_path, "--cells", "3", "--order", order, "--steps", steps)
    rows = pipeline.run("darts", darts.scheme, s)
    assert [row["name"] for row in rows] == ["DARTS", "logistic regression", "chance"]
    assert rows[0]["parameters"] > 0


def test_an_existing_run_folder_is_refused(tmp_path):
    s = small(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep me")
    with pytest.raises(mlopt.SettingsError, match=r"run.*(overwrite|another)"):
        pipeline.run("darts", darts.scheme, s)
    assert (tmp_path / "run" / "mine.txt").read_text() == "keep me"

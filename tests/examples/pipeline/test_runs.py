"""A scheme and the plain search in one run folder."""

import json
import sys

import pytest
from examples.small_runs import SMALL

import lfm_cw_darts
import sgl_darts
from support import pipeline


@pytest.mark.parametrize("example", [sgl_darts, pytest.param(lfm_cw_darts, marks=pytest.mark.slow)])
def test_a_scheme_beside_the_plain_search(tmp_path, monkeypatch, capsys, example):
    name = example.__name__
    monkeypatch.chdir(tmp_path)
    arguments = [*SMALL, "--run-folder", "both", "--beside-plain", "--learners", "2"]
    arguments += ["--order", "first"]
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments, "--retrain", "all"])
    pipeline.main(name, example.scheme, example.__doc__)
    title = example.scheme.title
    result = json.loads((tmp_path / "both" / "result.json").read_text())
    names = [row["name"] for row in result["rows"]]
    group = [f"{title} learner"] * (name == "sgl_darts")
    assert [row.rstrip(" 12") for row in names] == [
        title, *group, "DARTS", "logistic regression", "chance",
    ]  # fmt: skip
    plain = json.loads((tmp_path / "both" / "darts" / "result.json").read_text())["rows"][0]
    assert plain == result["rows"][names.index("DARTS")]
    shown = capsys.readouterr().out.splitlines()[-len(names) :]
    assert [line.split("  ")[0].strip("| ") for line in shown] == names
    assert "DARTS" in (tmp_path / "both" / "report.html").read_text()

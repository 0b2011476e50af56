"""Several runs on one page: each by the name of its folder, and what differs between them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlopt._errors import SettingsError
from mlopt.report import RunFolder, run_folder, write_comparison
from mlopt.report.__main__ import main
from mlopt.report.run_data import RunData, lines_of


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one asks git, which takes longer than all else here."""
    found = dict.fromkeys(["mlopt", "command", "python", "torch"], "1")
    monkeypatch.setattr(run_folder, "environment", lambda: found)


def make(root: Path, error: float, *, dataset: str = "digits", **settings: object) -> Path:
    """A finished run that calls itself LFM-CW, with a baseline."""
    with RunFolder.create(root, {"epochs": 3, "run_folder": str(root), **settings}) as folder:
        for epoch in range(1, 4):
            folder.log("search-epoch", epoch=epoch, **{"validation/loss": error / epoch})
        rows = [{"name": "LFM-CW", "test_error": error}, {"name": "chance", "test_error": 90.0}]
        folder.save_json("result.json", {"rows": rows, "dataset": dataset, "notes": ["One seed."]})
    return root


def tables(page: str) -> list[list[list[str]]]:
    found = re.findall(r"<table.*?</table>", page, re.S)
    return [
        [re.findall(r"<t[hd][^>]*>(.*?)</t", row) for row in re.findall(r"<tr.*?</tr>", one, re.S)]
        for one in found
    ]


def test_runs_stand_side_by_side_by_the_names_of_their_folders(tmp_path: Path) -> None:
    folders = [make(tmp_path / "a", 3.0, lr=0.1), make(tmp_path / "b", 2.0, lr=0.2)]
    path = write_comparison(folders, tmp_path / "page.html")
    page = path.read_text(encoding="utf-8")
    result, differences, *_ = tables(page)
    assert [row[:2] for row in result[1:]] == [["a", "3.00"], ["b", "2.00"], ["chance", "90.00"]]
    assert differences == [["", "a", "b"], ["lr", "0.1", "0.2"]]
    assert "<h1>a and b</h1>" in page
    assert 'aria-label="loss over search epoch; a; b"' in page
    assert 'class="big"' not in page  # it is about neither of them
    assert "One seed." not in page


def test_runs_of_other_data_are_said_to_be(tmp_path: Path) -> None:
    folders = [make(tmp_path / "a", 3.0), make(tmp_path / "b", 2.0, dataset="cifar10")]
    page = write_comparison(folders, tmp_path / "page.html").read_text(encoding="utf-8")
    assert tables(page)[1] == [["", "a", "b"], ["data", "digits", "cifar10"]]


def test_the_same_settings_are_said_to_be(tmp_path: Path) -> None:
    folders = [make(tmp_path / name / "run", 3.0) for name in "ab"]
    page = write_comparison(folders, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "All settings are the same." in page
    assert "<h1>a/run and b/run</h1>" in page


def test_a_run_without_a_result_is_shown_with_its_state(tmp_path: Path) -> None:
    first = make(tmp_path / "a", 3.0)
    folder = RunFolder.create(tmp_path / "b", {})
    folder.log("search-epoch", epoch=2, **{"validation/loss": 1.0})
    with pytest.raises(KeyboardInterrupt), folder:
        raise KeyboardInterrupt
    page = write_comparison([folder.root, first], tmp_path / "page.html").read_text("utf-8")
    assert [row[:2] for row in tables(page)[0][1:]] == [["b", "–"], ["a", "3.00"]]
    assert "b: The run was interrupted, in the search, epoch 2." in page


def test_learners_of_several_runs_have_a_name_and_a_look_each(
    tmp_path: Path, make_group: Callable[[Path, int], RunFolder]
) -> None:
    runs = [RunData.read(make_group(tmp_path / name, 2).root, name) for name in "ab"]
    lines = lines_of(runs, "search-epoch", "validation/loss")
    assert [line.label for line in lines] == [
        "a learner 1", "a learner 2", "b learner 1", "b learner 2"
    ]  # fmt: skip
    assert [line.series for line in lines] == [2, 3, 4, 5]
    assert len({(line.series % 4, str(line.dash)) for line in lines}) == 4


@pytest.mark.parametrize("wrong", ["one", "twice", "none", "no run", "other file", "folder"])
def test_what_cannot_be_compared_is_refused(tmp_path: Path, wrong: str) -> None:
    one, two, page = make(tmp_path / "a", 3.0), make(tmp_path / "b", 3.0), tmp_path / "page.html"
    (tmp_path / "notes.html").write_text("mine")
    folders, path, message = {
        "one": ([one], page, "takes two runs or more"),
        "twice": ([one, two, one / ".." / "a"], page, "each once"),
        "none": ([], page, "takes two runs or more"),
        "no run": ([one, tmp_path], page, "not the folder of a run"),
        "other file": ([one, two], tmp_path / "notes.html", "is no report, and stays as it is"),
        "folder": ([one, two], tmp_path, "is no report, and stays as it is"),
    }[wrong]
    with pytest.raises(SettingsError, match=message):
        write_comparison(folders, path)
    assert (tmp_path / "notes.html").read_text() == "mine"
    assert not page.exists()


def test_the_command_line_compares_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "a", 3.0)
    make(tmp_path / "b", 2.0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mlopt.report", "a", "b"])
    assert main() == 0
    assert capsys.readouterr().out.strip() == "comparison.html"
    monkeypatch.setattr(sys, "argv", ["mlopt.report", "a", "b", "--output", "page.html"])
    assert main() == 0
    assert (tmp_path / "page.html").read_text() == (tmp_path / "comparison.html").read_text()
    assert not (tmp_path / "a" / "report.html").exists()
    monkeypatch.setattr(sys, "argv", ["mlopt.report", "a", "--output", "page.html"])
    with pytest.raises(SystemExit):
        main()

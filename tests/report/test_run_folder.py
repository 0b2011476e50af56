"""A run folder describes one run, and is never overwritten by accident."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mlopt._errors import DataError, SettingsError
from mlopt.report import RunFolder, write_report


def test_settings_environment_and_metrics_are_written(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "runs" / "first", {"epochs": 3}) as folder:
        folder.log("search", step=0, epoch=0, **{"stage1/loss": 0.5})
        folder.log("retrain", epoch=1, loss=math.nan)
    opened = RunFolder.open(folder.root)
    assert opened.read_json("settings.json") == {"epochs": 3}
    environment = opened.read_json("environment.json")
    assert {"python", "torch", "command", "git_commit", "gpus"} <= environment.keys()
    first, second = opened.metrics()
    assert first == {"phase": "search", "step": 0, "epoch": 0, "stage1/loss": 0.5}
    assert math.isnan(second["loss"])


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", {"a": 1}).save_json("result.json", {"b": 2})
    with pytest.raises(SettingsError, match=r"run: already exists.*or overwrite=True"):
        RunFolder.create(tmp_path / "run", {"a": 2})
    assert RunFolder.open(tmp_path / "run").read_json("result.json") == {"b": 2}


def test_overwrite_removes_what_the_earlier_run_left(tmp_path: Path) -> None:
    old = RunFolder.create(tmp_path / "run", {"a": 1})
    old.path("samples/epoch_0000.png").write_bytes(b"x")
    new = RunFolder.create(tmp_path / "run", {"a": 2}, overwrite=True)
    assert not (new.root / "samples").exists()
    assert new.read_json("settings.json") == {"a": 2}


def test_overwrite_leaves_what_no_run_writes(tmp_path: Path) -> None:
    """Notes beside a run, in a folder of their own, among its pictures and in the run below it."""
    theirs = ("notes.md", "paper/result.json", "samples/mine.png", "darts/notes.md", "cells_2.svg")
    ours = ("samples/epoch_0001.png", "cells_learner_2.svg", "genotype.json", "retrain_0.pt",
            ".retrain_0.pt.lock", f".result.json.{'0' * 16}.part", "darts/result.json",
            "plain/result.json", "plain/darts/cells.png")  # fmt: skip
    for name in ("run", "run/darts", "run/plain", "run/plain/darts"):
        RunFolder.create(tmp_path / name, {}).close()
    for name in theirs + ours:
        (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text("mine")
    (tmp_path / "run" / "learners.json").mkdir()  # no run makes such a folder
    (tmp_path / "run" / "metrics.jsonl").symlink_to("notes.md")
    for _ in range(2):
        RunFolder.create(tmp_path / "run", {}, overwrite=True).close()
        left = [path for path in (tmp_path / "run").rglob("*") if not path.is_dir()]
        names = {path.relative_to(tmp_path / "run").as_posix() for path in left}
        assert names == {*theirs, "settings.json", "environment.json", "state.json"}
        assert all((tmp_path / "run" / name).read_text() == "mine" for name in theirs)
    assert not (tmp_path / "run" / "plain").exists()


def test_overwrite_never_removes_what_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SettingsError, match="not the folder of a run"):
        RunFolder.create(tmp_path, {}, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_opening_something_else_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        RunFolder.open(tmp_path / "missing")
    with pytest.raises(SettingsError, match=r"settings\.json"):
        RunFolder.open(tmp_path)


def test_a_file_in_the_way_and_names_that_lead_out_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="is a file"):
        RunFolder.create(tmp_path / "file", {})
    with pytest.raises(SettingsError, match="outside"):
        RunFolder.create(tmp_path / "run", {}).path("../other.json")


@pytest.mark.parametrize(("name", "said"), [("a\0b", "NUL"), ("x" * 300, "Give a shorter name")])
def test_a_name_that_no_folder_can_have_is_refused(tmp_path: Path, name: str, said: str) -> None:
    for use in (
        lambda: RunFolder.create(tmp_path / name, {}),
        lambda: RunFolder.create(tmp_path / name, {}, overwrite=True),
        lambda: RunFolder.open(tmp_path / name),
        lambda: RunFolder(tmp_path / name).log("search", step=1),
        lambda: write_report(tmp_path / name),
    ):
        with pytest.raises(SettingsError, match=said):
            use()
    assert not list(tmp_path.iterdir())


def test_json_that_was_damaged_is_named(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    folder.path("result.json").write_text("{")
    with pytest.raises(DataError, match=r"result\.json"):
        folder.read_json("result.json")


def test_what_was_logged_later_is_taken_back(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", {}) as folder:
        assert folder.logged == 0
        folder.cut(0)  # nothing has been logged
        folder.log("search", step=1)
        there = folder.logged
        for step in (2, 3):
            folder.log("search", step=step)
    with RunFolder.open(folder.root) as again:
        again.cut(there + 5)  # in the middle of a row that goes with the others
        again.cut(10**6)
        assert [row["step"] for row in again.metrics()] == [1]
        again.log("search", step=4)
        assert [row["step"] for row in again.metrics()] == [1, 4]
        again.cut(0)
        again.log("search", step=5)
        assert [row["step"] for row in again.metrics()] == [5]


def test_overwriting_removes_checkpoints(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", {}) as folder:
        for stage in ("checkpoints", "checkpoints_stage_2"):
            folder.save(f"{stage}/step_0000000003.ckpt", b"x")
        folder.save("checkpoints/notes.txt", "mine")
    RunFolder.create(tmp_path / "run", {}, overwrite=True).close()
    left = {p.relative_to(folder.root).as_posix() for p in folder.root.rglob("*")}
    ours = {"settings.json", "environment.json", "state.json"}
    assert left == {*ours, "checkpoints", "checkpoints/notes.txt"}

"""A run folder describes one run, and is never overwritten by accident."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mlopt._errors import DataError, SettingsError
from mlopt.report import RunFolder


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


def test_json_that_was_damaged_is_named(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    folder.path("result.json").write_text("{")
    with pytest.raises(DataError, match=r"result\.json"):
        folder.read_json("result.json")

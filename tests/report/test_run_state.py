"""A run's folder says whether the run goes on, has been interrupted, or is finished."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from children import ended, fork, running

from mlopt._errors import SettingsError
from mlopt._files import read_state, write_state
from mlopt.report import RunFolder
from mlopt.report.run_files import STATE


def state(path: Path) -> str:
    return RunFolder.open(path).state


def test_a_run_says_that_it_is_finished(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "a", {}) as folder:
        assert folder.state == state(folder.root) == "running"
        folder.log("search", step=0, loss=1.0)
        folder.save("notes.md", "x")
        child = fork(lambda: state(folder.root) == "running" or os._exit(3))
        assert ended(child) == 0
    assert folder.state == "finished"
    folder.save("notes.md", "y")  # a report, say, is no run
    with RunFolder.open(folder.root) as again:
        assert again.metrics()
    assert state(folder.root) == "finished"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_is_raised_interrupts_it_and_a_log_goes_on(tmp_path: Path, error: type) -> None:
    with pytest.raises(error), RunFolder.create(tmp_path / "a", {}):
        raise error
    assert state(tmp_path / "a") == "interrupted"
    with RunFolder.open(tmp_path / "a") as folder:
        assert folder.state == "interrupted"
        folder.log("search", step=1)
        assert folder.state == "running"
    assert folder.state == "finished"


def test_a_killed_run_is_interrupted_and_blocks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def work(ready: Callable[[], None]) -> None:
        folder = RunFolder.create(path, {})
        folder.log("search", step=1)
        ready()
        os.read(os.pipe()[0], 1)  # until it is killed

    with running(work):
        assert state(path) == "running"
    assert state(path) == "interrupted"
    with RunFolder.open(path) as folder:
        folder.log("search", step=2)
    assert [row["step"] for row in folder.metrics()] == [1, 2]
    RunFolder.create(path, {}, overwrite=True).close(finished=False)
    assert state(path) == "interrupted"


def test_a_folder_of_before_there_were_states(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "a", {})
    (folder.root / STATE).unlink()
    assert folder.state == "running"
    folder._lock.release()
    assert folder.state == "interrupted"
    folder.save_json("result.json", {})
    assert folder.state == "finished"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"state": "asleep"}', "\0"])
def test_what_somebody_else_has_written_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / STATE).write_text(content)
    assert read_state(tmp_path / STATE, tmp_path / ".lock") == ""


def test_a_state_that_nobody_may_read_is_said(tmp_path: Path) -> None:
    (tmp_path / STATE).mkdir()
    with pytest.raises(SettingsError, match="cannot be read"):
        read_state(tmp_path / STATE, tmp_path / ".lock")
    with pytest.raises(SettingsError, match="cannot be written"):
        write_state(tmp_path / STATE, "running")


def test_a_folder_that_has_been_removed_is_not_made_again(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "a", {}) as folder:
        shutil.rmtree(folder.root)
    assert not folder.root.exists()


def test_an_error_is_not_hidden_by_one_of_the_state(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "a", {})
    (folder.root / STATE).unlink()
    (folder.root / STATE).mkdir()
    with pytest.raises(ZeroDivisionError), folder:
        raise ZeroDivisionError

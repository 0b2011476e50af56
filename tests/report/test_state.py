"""A report says whether the run goes on, was interrupted or has finished."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import time
from pathlib import Path

import pytest
from children import kill, running

from mlopt._files import Lock, is_taken
from mlopt.report import RunFolder, run_folder, write_report
from mlopt.report.run_data import RunData

AGAIN = '<meta http-equiv="refresh" content="30">'


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one asks git, which takes longer than all else here."""
    found = dict.fromkeys(["mlopt", "command", "python", "torch"], "1")
    monkeypatch.setattr(run_folder, "environment", lambda: found)


def said(folder: RunFolder | Path) -> tuple[str, bool]:
    """What the report says of the run, and whether a browser loads it again."""
    page = write_report(folder).read_text(encoding="utf-8")
    found = re.findall(r'<p class="state (\w+)">(.*?)</p>', page)
    assert len(found) < 2
    return " | ".join(found[0]) if found else "", AGAIN in page


def test_a_run_is_running_then_interrupted_or_finished(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    words, again = said(folder)
    assert words.startswith("running | The run goes on, before it logged anything.")
    assert again
    folder.log("search", step=12, epoch=3, note=1)
    words, again = said(folder)
    assert "The run goes on and is in the search, epoch 3, step 12 (logged 2" in words
    assert again
    with pytest.raises(KeyboardInterrupt), folder:
        raise KeyboardInterrupt
    assert said(folder) == (
        "interrupted | The run was interrupted, in the search, epoch 3, step 12. It has no result; "
        "below is what there was by then.",
        False,
    )
    folder.save_json("result.json", {"rows": [{"name": "A", "test_error": 3.0}]})
    assert said(folder) == ("", False)


def test_a_result_of_a_run_that_still_holds_its_folder_is_the_end_of_it(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", {}) as folder:
        folder.save_json("result.json", {"rows": [{"name": "A", "test_error": 3.0}]})
        assert said(folder) == ("", False)


def test_of_several_runs_each_is_named(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", {}) as folder:
        folder.save_json("result.json", {"rows": [{"name": "LFM-CW", "test_error": 3.0}]})
        with RunFolder.create(tmp_path / "run" / "darts", {}) as darts:
            darts.log("retrain", epoch=2)
            words, again = said(folder)
    assert words.startswith("running | darts: The run goes on and is in the retraining, epoch 2")
    assert again


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_killed_process_has_interrupted_its_run(tmp_path: Path) -> None:
    def work(ready) -> None:
        with RunFolder.create(tmp_path / "run", {"a": 1}) as folder:
            folder.log("search", step=1)
            ready()
            signal.pause()

    with running(work) as child:
        assert said(tmp_path / "run")[0].startswith("running | ")
        kill(child)
    assert (tmp_path / "run" / ".run.lock").exists()
    assert said(tmp_path / "run")[0].startswith("interrupted | The run was interrupted, in the sea")
    assert RunData.read(tmp_path / "run", "run").state.name == "interrupted"


def test_asking_for_a_lock_makes_nothing_and_takes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_taken(path)
    assert not path.exists()
    with Lock(path, "it"):
        assert is_taken(path)
        path.chmod(0o444)
        assert is_taken(path)
    assert not is_taken(path)
    path.touch()
    assert not is_taken(path)
    with Lock(path, "it"):
        assert is_taken(path)


def test_who_asks_keeps_no_writer_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that asks has the lock for an instant, which is when the writer comes."""
    path = tmp_path / "lock"
    path.touch()
    asking = os.open(path, os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH | fcntl.LOCK_NB)
    monkeypatch.setattr(time, "sleep", lambda seconds: os.close(asking))
    with Lock(path, "it") as lock:
        assert lock.held

"""How a program ends that a signal or an error ends, and what continues it."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from examples.pipeline.test_resume import outcome
from examples.small_runs import SMALL
from small import assert_same

import darts
import mlopt
import sgl_darts
from mlopt.report import RunFolder
from support import pipeline
from support.pipeline import runs


def started(monkeypatch: pytest.MonkeyPatch, name: str, line: list[str]) -> None:
    """As if this process were of this command."""
    words = [f"examples/{name}.py", *line]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(sys, "orig_argv", ["python", *words])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("during", ["search", "retrain"])
def test_the_last_line_continues_the_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    status: int,
    during: str,
) -> None:
    monkeypatch.setattr(runs, "remove_checkpoints", lambda folder: None)
    log, line = RunFolder.log, [*SMALL, "--epochs", "2", "--eval-epochs", "2"]

    def interrupted(self: RunFolder, phase: str, **row: Any) -> None:
        log(self, phase, **row)
        if phase == during and row["epoch"] == 1:
            os.kill(os.getpid(), number)

    folder = tmp_path / "a run's"
    started(monkeypatch, "darts", [*line, "--run-folder", str(folder)])
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log", interrupted)
        with pytest.raises(SystemExit) as ended:
            pipeline.main("darts", darts.scheme, None)
    assert ended.value.code == status
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command == [*sys.orig_argv, "--resume"]
    started(monkeypatch, "darts", command[2:])
    with monkeypatch.context() as patch:
        if during == "retrain":  # where it goes on: it does not search again
            patch.setattr(mlopt.Engine, "_take_step", lambda engine: pytest.fail("a step"))
        pipeline.main("darts", darts.scheme, None)

    started(monkeypatch, "darts", [*line, "--run-folder", str(tmp_path / "whole")])
    pipeline.main("darts", darts.scheme, None)
    assert_same(without_seeds(outcome(tmp_path / "whole")), without_seeds(outcome(folder)))


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_end_and_a_second_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, times: int
) -> None:
    """Both come at the beginning of the second step, while the program's own handler stands."""
    step, ended = mlopt.Engine._take_step, []

    def interrupted(engine: mlopt.Engine) -> Any:
        if engine.steps == 1:
            for _ in range(times):
                os.kill(os.getpid(), number)
        metrics = step(engine)
        ended.append(engine.steps)
        return metrics

    folder = tmp_path / "run"
    started(monkeypatch, "darts", [*SMALL, "--epochs", "2", "--run-folder", str(folder)])
    monkeypatch.setattr(mlopt.Engine, "_take_step", interrupted)
    with pytest.raises(SystemExit) as left:
        pipeline.main("darts", darts.scheme, None)
    assert left.value.code == 128 + number
    last = 2 if times == 1 else 1
    assert ended == [*range(1, last + 1)]
    saved = max(path.name for path in folder.glob("checkpoints*/*.ckpt"))
    assert saved == f"step_{last:010d}.ckpt"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def without_seeds(held: dict[str, Any]) -> dict[str, Any]:
    """Not the generators of Python and NumPy, which nobody has seeded or read here."""
    for name, content in held.items():
        if name.endswith(".ckpt"):
            content["engine"]["generators"] = content["engine"]["generators"]["torch"]
            for stream in content["engine"]["streams"]:
                for start in stream["starts"]:
                    del start["others"]
    return held


def test_a_run_that_is_there_is_refused_and_resume_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*SMALL, "--run-folder", str(tmp_path / "run")]
    started(monkeypatch, "darts", line)
    pipeline.main("darts", darts.scheme, None)
    with pytest.raises(SystemExit, match=r"error: .*already exists\. Give --resume to go on"):
        pipeline.main("darts", darts.scheme, None)
    result = (tmp_path / "run" / "result.json").read_bytes()
    capsys.readouterr()
    started(monkeypatch, "darts", [*line, "--resume"])
    pipeline.main("darts", darts.scheme, None)  # a finished one is only read
    assert (tmp_path / "run" / "result.json").read_bytes() == result
    assert "test error" in capsys.readouterr().out
    started(monkeypatch, "darts", [*line, "--resume", "--lr", "0.2"])
    with pytest.raises(SystemExit, match=r"has lr = 0\.1, not 0\.2"):
        pipeline.main("darts", darts.scheme, None)


def test_an_error_is_one_line() -> None:
    with pytest.raises(SystemExit, match="^error: no$"), pipeline.ending():
        raise mlopt.DataError("no")


def test_a_handler_of_somebody_else_stays() -> None:
    def theirs(*_: Any) -> None:
        pass

    signal.signal(signal.SIGTERM, theirs)
    try:
        with pipeline.ending():
            assert signal.getsignal(signal.SIGTERM) is theirs
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.parametrize("same", [True, False])
def test_a_search_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], same: bool
) -> None:
    """The new process makes the engine of the same settings; nothing is written."""
    monkeypatch.chdir(tmp_path)
    line = [*SMALL, "--space", "p-darts", "--pretrain", "1", "--precision", "fp16"]
    started(monkeypatch, "sgl_darts", [*line, "--verify-resume"])
    if not same:
        found = mlopt.Resumption(4, 2, "step 3: a differs")
        monkeypatch.setattr(mlopt, "verify_resume", lambda *arguments: found)
    with pytest.raises(SystemExit) as ended:
        pipeline.main("sgl_darts", sgl_darts.scheme, None)
    assert ended.value.code == (0 if same else 1)
    said = "the same to the bit" if same else "step 3: a differs"
    assert said in capsys.readouterr().out
    assert not list(tmp_path.iterdir())

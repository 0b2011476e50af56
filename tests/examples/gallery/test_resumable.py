"""Programs of the gallery that a signal has interrupted in their training go on from there."""

from __future__ import annotations

import importlib
import os
import runpy
import shlex
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
from examples.gallery.test_run import FEWER, SMALL

import mlopt
import resumable

EXAMPLES = Path(__file__).parents[3] / "examples"

#: Small ones of the programs that train, with two steps or more in every run.
TRAIN = {
    "duopoly": ["--steps", "3"],
    "hyper_cleaning": ["--steps", "2", "--valid", "20"],
    "imaml": ["--steps", "3", "--tasks", "2", "--rounds", "2"],
    "interleaving": ["--seeds", "1", "--steps", "2"],
    "logistic_hpo": ["--steps", "3"],
    "maml": ["--steps", "3", "--tasks", "2"],
    "reweighting": ["--seeds", "1", "--epochs", "1"],
}


def start(name: str, line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process of this command does."""
    named(name, line, monkeypatch)
    example = importlib.import_module(f"examples.gallery.{name}")
    with monkeypatch.context() as patch:
        if name in FEWER:
            function, fewer = FEWER[name]
            patch.setattr(example, function, partial(getattr(example, function), **fewer))
        resumable.program(example.main)


def named(name: str, line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process were of this command."""
    words = [f"examples/gallery/{name}.py", *line]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(sys, "orig_argv", ["python", *words])


def test_all_that_train_are_here() -> None:
    assert {*SMALL, "interleaving"} - {"three_levels"} == set(TRAIN)


@pytest.mark.parametrize("name", TRAIN)
def test_no_step_is_lost_and_none_is_taken_twice(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    take_step, taken, last = mlopt.Engine._take_step, 0, -1

    def counted(engine: mlopt.Engine) -> object:
        nonlocal taken
        taken += 1
        if taken == last:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(engine)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlopt.Engine, "_take_step", counted)
    start(name, TRAIN[name], monkeypatch)
    whole, steps = capsys.readouterr().out, taken

    taken, last = 0, steps // 2 + 1
    with pytest.raises(SystemExit) as ended:
        start(name, TRAIN[name], monkeypatch)
    assert ended.value.code == 128 + signal.SIGTERM
    assert taken == last
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command == [*sys.orig_argv, "--resume"]

    last = -1
    start(name, command[2:], monkeypatch)
    assert taken == steps
    assert capsys.readouterr().out == whole
    assert not list(tmp_path.iterdir())


def test_a_run_without_resume_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever an interrupted one of the same options has left."""
    monkeypatch.chdir(tmp_path)

    def interrupted(self: mlopt.Checkpoint, engine: mlopt.Engine) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlopt.Checkpoint, "on_end", interrupted)
        with pytest.raises(SystemExit, match="130"):
            start("duopoly", TRAIN["duopoly"], monkeypatch)
    assert list((tmp_path / "runs" / "duopoly-steps=3").iterdir())
    start("duopoly", TRAIN["duopoly"], monkeypatch)
    assert not list(tmp_path.iterdir())


def test_what_is_no_program_saves_nothing() -> None:
    watch = mlopt.Callback()
    assert resumable.saved(watch) == {"callbacks": (watch,)}


@pytest.mark.parametrize("name", ["hpo_ridge", "gallery/three_levels"])
def test_a_short_one_ends_with_its_own_command(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    named(name, [], monkeypatch)
    monkeypatch.setattr(mlopt, "Engine", interrupted)
    with pytest.raises(SystemExit, match="130"):
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert shlex.split(capsys.readouterr().out.splitlines()[-1]) == sys.orig_argv


@pytest.mark.parametrize("name", TRAIN)
def test_its_command_runs_it_as_a_program(name: str) -> None:
    text = (EXAMPLES / "gallery" / f"{name}.py").read_text(encoding="utf-8")
    assert text.endswith('if __name__ == "__main__":\n    program(main)\n')

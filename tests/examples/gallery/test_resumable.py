"""Small programs that a signal has interrupted in their training go on from there."""

from __future__ import annotations

import importlib
import os
import shlex
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
from examples.gallery.test_run import FEWER, SMALL

import mlopt
from examples.gallery import three_levels
from support.pipeline import program, saved

ROOT = Path(__file__).parents[3]

#: Small ones of the programs that train, with two steps or more in every run.
TRAIN = {
    "hpo_ridge": [],
    "duopoly": ["--steps", "3"],
    "hyper_cleaning": ["--steps", "2", "--valid", "20"],
    "imaml": ["--steps", "3", "--tasks", "2", "--rounds", "2"],
    "interleaving": ["--seeds", "1", "--steps", "2"],
    "logistic_hpo": ["--steps", "3"],
    "maml": ["--steps", "3", "--tasks", "2"],
    "reweighting": ["--seeds", "1", "--epochs", "1"],
}
#: Functions that take many steps, here few.
FEWER_STEPS = {**FEWER, "hpo_ridge": ("learn_penalties", {"steps": 3})}


def start(name: str, line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process of this command does."""
    named(name, line, monkeypatch)
    example = importlib.import_module(".".join(path_of(name).with_suffix("").parts))
    with monkeypatch.context() as patch:
        if name in FEWER_STEPS:
            function, fewer = FEWER_STEPS[name]
            patch.setattr(example, function, partial(getattr(example, function), **fewer))
        program(example.main)


def path_of(name: str) -> Path:
    """That of its program, in the project."""
    path = Path("examples", f"{name}.py")
    return path if (ROOT / path).is_file() else path.parent / "gallery" / path.name


def named(name: str, line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process were of this command."""
    words = [str(path_of(name)), *line]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(sys, "orig_argv", ["python", *words])


def test_all_that_train_are_here() -> None:
    assert {*SMALL, "interleaving", "hpo_ridge"} - {"three_levels"} == set(TRAIN)


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
        self._lock.release()  # which this stands in the way of
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
    assert saved(watch) == {"callbacks": (watch,)}


def test_one_that_trains_nothing_begins_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(mlopt, "Engine", interrupted)
        with pytest.raises(SystemExit, match="130"):
            start("three_levels", SMALL["three_levels"], monkeypatch)
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command == [*sys.orig_argv, "--resume"]
    monkeypatch.setitem(three_levels.METHODS, "Unrolled(30)", mlopt.Unrolled(3))
    start("three_levels", command[2:], monkeypatch)
    assert "Implicit(CG)" in capsys.readouterr().out


@pytest.mark.parametrize("name", [*TRAIN, "three_levels"])
def test_its_command_runs_it_as_a_program(name: str) -> None:
    text = (ROOT / path_of(name)).read_text(encoding="utf-8")
    assert text.endswith('if __name__ == "__main__":\n    program(main)\n')


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::mlopt.ConvergenceWarning")  # of the first steps of iMAML
@pytest.mark.parametrize("name", [name for name in TRAIN if name != "hpo_ridge"])
def test_that_it_can_be_resumed_is_verified(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a process of its own, as a user does it."""
    with pytest.raises(SystemExit, match="0"):
        start(name, [*TRAIN[name], "--verify-resume"], monkeypatch)
    assert "the same to the bit" in capsys.readouterr().out

"""`--jobs`: cells in processes of this machine, which may die, and which an interrupt ends."""

from __future__ import annotations

import functools
import os
import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import ended, fork
from examples.launchers.launched_runs import STEPS, beside, endless, killed_once, noted, was_saved
from examples.small_runs import TINY
from examples.tables.experiment_runs import make

import experiments
from support.launchers import Processes, launched, processes
from support.tables import Cell

#: The program of a process, as of experiments.py.
PROGRAM = """
import pickle, sys
from support.launchers import run_child

cells, start = pickle.load(open(sys.argv[1], "rb"))
sys.exit(run_child(next(cell for cell in cells if str(cell.folder) == sys.argv[3]), start))
"""


def started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[..., None], epochs: int
) -> tuple[list[Cell], Processes]:
    """Two seeds of darts, and two processes at a time for them."""
    experiment = make(tmp_path, seeds=[0, 1], given={"epochs": epochs})
    cells = experiments.cells_of(experiment, ["plain"])
    (tmp_path / "cells").write_bytes(pickle.dumps((cells, start)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    return cells, Processes([sys.executable, "-c", PROGRAM, str(tmp_path / "cells")], 2)


def test_a_process_that_is_killed_is_tried_again_and_goes_on(
    tmp_path: Path, tables: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (_, cell), launcher = started(tmp_path, monkeypatch, killed_once, STEPS)
    assert [*launched([cell], launcher, retries=1)] == [(cell, "done")]
    assert noted(cell, "steps") == [0, 1, 2, 3]  # none of them twice
    assert noted(cell, "threads") == [3, 3]


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        ("raise SystemExit('no memory')", "has exited 1"),
    ],
)
def test_one_that_dies_each_time_has_failed(
    tmp_path: Path, tables: Any, capfd: pytest.CaptureFixture[str], program: str, why: str
) -> None:
    cell = make(tmp_path).lines[0].cells[0]
    launcher = Processes([sys.executable, "-c", f"print('tried', flush=True); {program}"], 2)
    assert [*launched([cell], launcher, retries=2)] == [(cell, "failed")]
    assert cell.output.read_text().count("tried") == 3
    assert cell.error() == f"its process {why}; what it printed is in {cell.output}"
    assert capfd.readouterr().err == ""


def test_an_interrupt_lets_all_of_them_save(
    tmp_path: Path, tables: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SIGTERM that a scheduler sends to all processes does not count as the first of two."""
    start = functools.partial(endless, [(0, signal.SIGTERM), (os.getpid(), signal.SIGINT)])
    cells, launcher = started(tmp_path, monkeypatch, start, STEPS + 1)
    cells[0].output.parent.mkdir(parents=True)
    os.mkfifo(beside(cells[1].s, "pipe"))
    with pytest.raises(KeyboardInterrupt):
        assert not [*launched(cells, launcher)]
    for cell in cells:
        assert was_saved(cell)
        assert "Interrupted. run: ended by SIGINT" in cell.output.read_text()


def test_processes_end_with_the_one_that_started_them(
    tmp_path: Path, tables: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = functools.partial(endless, [])
    cells, launcher = started(tmp_path, monkeypatch, start, STEPS + 1)
    pipe = beside(cells[0].s, "pipe")
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    child = fork(lambda: [*launched(cells[:1], launcher), pipe.write_bytes(b"too early")])
    with pipe.open("rb", buffering=0) as said:
        assert said.read(1) == b"x"
        os.kill(child, signal.SIGKILL)
        assert ended(child) == -signal.SIGKILL
        assert said.read() == b""  # it has ended
    assert was_saved(cells[0])


def test_the_command_with_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And again, which only reads."""
    options = zip(TINY[::2], TINY[1::2], strict=True)
    words = [
        f"{name[2:].replace('-', '_')}={value}" for name, value in options if name != "--order"
    ]
    command = [
        "--table", "matrix", "--rows", "darts-1st", "--folder", str(tmp_path / "out"), "--seeds",
        "3", "--jobs", "2", "--set", *words,
    ]  # fmt: skip
    assert experiments.main(command) == 0
    said = capsys.readouterr().out
    assert "[1 of 1] DARTS-1st, seed 3: done\n" in said
    assert "1 of 15 runs are done" in said
    (output,) = (tmp_path / "out").glob("cells/*/seed3.log")
    assert output.read_text().count("report: ") == 1
    assert experiments.main(command) == 0
    assert "of 1]" not in capsys.readouterr().out
    assert output.read_text().count("report: ") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jobs", "0"], "--jobs = 0 must be at least 1."),
        (["--retries", "-1"], "--retries = -1 must be at least 0."),
        (["--gpus", "1"], "--gpus is for Ray: give --launcher ray, too."),
        (["--address", "x:1"], "--address is for Ray: give --launcher ray, too."),
        (["--launcher", "ray", "--jobs", "2"], "--jobs is for this machine alone"),
        (["--launcher", "ray", "--gpus", "1.5"], "--gpus = 1.5 must be a fraction of one, or"),
        (["--launcher", "ray", "--cpus", "nan"], "--cpus = nan must be a fraction of one, or"),
        (["--launcher", "ray", "--gpus", "0.5"], "the cells compute on cpu; give --device cuda"),
        (["--launcher", "ray", "--device", "cuda"], "Ray gives a cell no GPU; give --gpus 1, or"),
        (["--cell", "elsewhere"], "--cell elsewhere: no cell of this command has that folder."),
    ],
)
def test_options_that_make_no_sense(
    tmp_path: Path, runs: Any, words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        experiments.main(["--table", "t", "--folder", str(tmp_path / "out"), *words])
    assert str(ended.value).startswith("error: ")
    assert message in str(ended.value)
    assert "\n" not in str(ended.value)
    assert runs.made == []
    assert not (tmp_path / "out").exists()

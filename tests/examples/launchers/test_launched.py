"""How cells go through a launcher: in which order, how many at a time, and again if they died."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from children import ended, fork
from examples.tables.experiment_runs import make

import experiments
import mlopt
from support import pipeline
from support.launchers import Ended, launched
from support.tables import Cell
from support.tables import cell as cell_module


class Scripted:
    """A launcher that ends the oldest cell it has, with the states that it is given by folder."""

    def __init__(self, at_once: float, states: dict[Path, list[str]] | None = None) -> None:
        self.at_once, self.states = at_once, states or {}
        self.running: list[Cell] = []
        self.begun: list[tuple[Path, bool]] = []
        self.most, self.closed = 0, 0

    def begin(self, cell: Cell, again: bool) -> None:
        self.running.append(cell)
        self.begun.append((cell.folder, again))
        self.most = max(self.most, len(self.running))

    def wait(self) -> Ended:
        cell = self.running.pop(0)
        return Ended(cell, self.states.get(cell.folder, ["done"]).pop(0), "it fell")

    def close(self) -> None:
        self.closed += 1


def cells(tmp_path: Path, table: str = "t", seeds: Iterable[int] = (0, 1, 2)) -> list[Cell]:
    return experiments.with_searches(experiments.cells_of(make(tmp_path, table, seeds=seeds), []))


@pytest.mark.parametrize("at_once", [1, 4, float("inf")])
def test_so_many_at_a_time_in_the_order_of_the_table(
    tmp_path: Path, tables: Any, capsys: pytest.CaptureFixture[str], at_once: float
) -> None:
    todo, launcher = cells(tmp_path), Scripted(at_once)
    assert [*launched(todo, launcher)] == [(cell, "done") for cell in todo]
    assert launcher.begun == [(cell.folder, False) for cell in todo]
    assert launcher.most == min(at_once, 6)
    assert launcher.closed == 1
    said = capsys.readouterr().out.splitlines()
    assert said.count("[2 of 6] LFM-CW, seed 0: done") == 1
    assert said[0] == f"[1 of 6] DARTS-1st, seed 0: {todo[0].folder}"


def test_an_evaluation_waits_for_its_search(tmp_path: Path, tables: Any, evaluations: Any) -> None:
    todo, launcher = cells(tmp_path, "transfer", [1]), Scripted(3)
    search, found, published = todo
    assert found.search == search
    assert [cell for cell, _ in launched(todo, launcher)] == [search, published, found]
    assert launcher.most == 2


TWO = 'title = "Two"' + "".join(
    f"""
[[rows]]
name = "after-{epochs}"
label = "After {epochs}"
example = "evaluate"
genotype = "t/lfm"
settings.eval_epochs = {epochs}
"""
    for epochs in (1, 2)
)


def test_a_search_that_two_evaluations_take_is_run_once(
    tmp_path: Path, tables: Any, runs: Any, evaluations: Any
) -> None:
    again = '[[rows]]\nname = "again"\nlabel = "Again"\nexample = "evaluate"\ngenotype = "t/lfm"\n'
    row = '[[rows]]\nname = "one"\nlabel = "One"\nexample = "evaluate"\ngenotype = "t/lfm"\n'
    tables(
        f'title = "Two"\n{row}settings.eval_epochs = 1\n{again}settings.eval_epochs = 2\n', "two"
    )
    assert experiments.run(make(tmp_path, "two", seeds=[0])) == 0
    assert runs.made == [("lfm_cw_darts", 0)]
    assert len(evaluations.made) == 2
    runs.errors[("lfm_cw_darts", 1)] = mlopt.DataError("no images")
    assert experiments.run(make(tmp_path, "two", seeds=[1])) == 2
    assert runs.made == [("lfm_cw_darts", 0), ("lfm_cw_darts", 1)]


def test_a_cell_that_died_comes_again_until_it_has_failed(
    tmp_path: Path, tables: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    todo = cells(tmp_path)
    fell, fell_once = todo[0], todo[3]
    states = {fell.folder: ["died"] * 3, fell_once.folder: ["died", "done"]}
    launcher = Scripted(2, states)
    became = {cell.folder: state for cell, state in launched(todo, launcher, retries=2)}
    assert became == {cell.folder: "failed" if cell is fell else "done" for cell in todo}
    begun = [again for folder, again in launcher.begun if folder == fell.folder]
    assert begun == [False, True, True]
    assert launcher.begun.count((fell_once.folder, True)) == 1
    assert json.loads(fell.failure.read_text())["error"] == "it fell"
    assert fell.state() == "failed"
    said = capsys.readouterr().out
    assert "[1 of 6] DARTS-1st, seed 0: it fell; retry 2 of 2\n" in said
    assert "[1 of 6] DARTS-1st, seed 0: failed: it fell\n" in said


def test_whatever_ends_the_table_closes_the_launcher(
    tmp_path: Path, runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for where in ("begin", "wait"):
        launcher = Scripted(2)
        with monkeypatch.context() as patch:
            patch.setattr(
                launcher, where, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
            )
            with pytest.raises(KeyboardInterrupt):
                experiments.run(make(tmp_path), (), launcher)
        assert launcher.closed == 1

    def full(experiment: object) -> str:
        raise OSError("no space left on device")

    launcher = Scripted(2)
    monkeypatch.setattr(experiments, "write", full)
    with pytest.raises(OSError, match="no space"):
        experiments.run(make(tmp_path), (), launcher)
    assert launcher.closed == 1


def test_one_that_is_interrupted_alone_is_not_done(tmp_path: Path, tables: Any) -> None:
    todo = cells(tmp_path)
    launcher = Scripted(2, {todo[1].folder: ["half done"], todo[2].folder: ["running"]})
    assert experiments.run(make(tmp_path), (), launcher) == 1


def test_one_that_died_with_its_machine_waits_for_its_lock(
    tmp_path: Path, runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system has not yet opened it."""
    (cell, *_) = cells(tmp_path)
    lock = cell_module.locked(cell._lock).acquire()
    assert cell.attempt(experiments.start) == "running"
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            lock.release()

    monkeypatch.setattr(cell_module, "sleep", sleep)
    assert cell.attempt(experiments.start, patience=60.0) == "done"
    assert len(waited) == 3


def test_processes_on_one_folder_run_each_cell_once(
    tmp_path: Path, tables: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the jobs of an array do: each has the same command, and they begin together."""
    made, first = tmp_path / "made", [True]
    here, gate = os.pipe(), os.pipe()

    def run(example: str, scheme: object, s: Any, *, resume: bool = False) -> None:
        if first:  # wait until the others have a cell, too
            first.clear()
            os.write(here[1], b"x")
            os.read(gate[0], 1)
        with made.open("a") as file:
            file.write(f"{example} {s.seed}\n")
        settings = {"example": example, **vars(s)}
        with pipeline.open_run(
            s.run_path(example), settings, resume=resume, overwrite=s.overwrite
        ) as folder:
            folder.save_json("result.json", {"rows": [{"name": "x", "test_error": 1.0}]})

    monkeypatch.setattr(pipeline, "run", run)
    monkeypatch.setattr(experiments, "write_page", lambda experiment: None)
    command = ["--table", "t", "--folder", str(tmp_path / "out"), "--seeds", *map(str, range(6))]

    def work() -> None:
        assert experiments.main(command) == 0

    children = [fork(work) for _ in range(3)]
    for _ in children:
        os.read(here[0], 1)
    os.write(gate[1], b"xxx")
    assert [ended(child) for child in children] == [0, 0, 0]
    expected = [f"{example} {seed}" for example in ("darts", "lfm_cw_darts") for seed in range(6)]
    assert sorted(made.read_text().splitlines()) == expected
    assert {cell.state() for cell in cells(tmp_path, seeds=range(6))} == {"done"}
    for end in (*here, *gate):
        os.close(end)

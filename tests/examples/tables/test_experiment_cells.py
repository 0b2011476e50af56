"""Cells of a table: run once, resumed, locked; evaluations of what a search has found."""

import json
import subprocess
import sys

import pytest
from examples.tables.experiment_runs import ALL, TABLE, make, read

import experiments
import mlopt
from mlopt.report import RunFolder
from support import pipeline
from support.tables import cell as cell_module


def test_settings_of_preset_table_row_and_command_line(tmp_path, tables):
    cells = {line.row.name: line.cells[0].s for line in make(tmp_path).lines}
    assert (cells["plain"].dataset, cells["plain"].order) == ("digits", "first")
    assert (cells["lfm"].epochs, cells["lfm"].lambda_) == (7, 2.0)
    assert cells["plain"].epochs == 15  # of the preset
    paper = {line.row.name: line.cells[0].s for line in make(tmp_path, preset="paper").lines}
    assert (paper["lfm"].dataset, paper["lfm"].epochs) == ("cifar10", 50)
    given = {"epochs": 3, "space": "p-darts"}
    p_darts = make(tmp_path, given=given).lines[1].cells[0].s
    assert (p_darts.epochs, p_darts.generator_epochs) == (3, 8)  # 8: [spaces.p-darts] of quick


# Going on.


def test_finished_cells_are_read(tmp_path, runs):
    experiments.run(make(tmp_path))
    runs.made.clear()
    assert experiments.run(make(tmp_path)) == 0
    assert runs.made == []
    cell = make(tmp_path).lines[1].cells[2]
    (cell.folder / "result.json").unlink()
    (cell.folder / "notes.md").write_text("mine")
    (cell.folder / "mine").mkdir()
    (cell.folder / "mine" / "result.json").write_text("{}")
    assert cell.state() == "half done"
    experiments.run(make(tmp_path))
    assert (runs.made, runs.resumed[-1]) == ([("lfm_cw_darts", 2)], True)
    assert (cell.folder / "notes.md").read_text() == "mine"
    assert (cell.folder / "mine" / "result.json").read_text() == "{}"


def test_an_interrupted_cell_goes_on(tmp_path, runs):
    runs.errors[("darts", 2)] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        experiments.run(make(tmp_path))
    assert runs.made == ALL[:5]
    assert read(make(tmp_path))["rows"][0]["seeds"] == 2  # written after every cell
    runs.errors.clear()
    runs.made.clear()
    experiments.run(make(tmp_path))
    assert runs.made == ALL[4:]
    assert runs.resumed == [False] * 5 + [True, False]


def test_half_a_folder_is_no_obstacle(tmp_path, runs):
    """Killed while the folder was being made: environment.json is there, settings.json is not."""
    cell = make(tmp_path).lines[0].cells[0]
    RunFolder.create(cell.folder, {}).close()
    (cell.folder / "settings.json").unlink()
    assert experiments.run(make(tmp_path, seeds=[0])) == 0
    assert cell.state() == "done"


def test_a_folder_that_is_no_runs_is_left_alone(tmp_path, runs):
    cell = make(tmp_path).lines[0].cells[0]
    cell.folder.mkdir(parents=True)
    (cell.folder / "settings.json").write_text("mine")
    assert experiments.run(make(tmp_path, seeds=[0])) == 1
    assert [item.name for item in cell.folder.iterdir()] == ["settings.json"]
    assert (cell.folder / "settings.json").read_text() == "mine"
    assert str(cell.folder) in cell.error()


def test_a_failure_is_recorded_and_the_others_go_on(tmp_path, runs, capsys):
    runs.errors = {("darts", 1): ZeroDivisionError("by zero"), ("darts", 0): 2.0, ("darts", 2): 4.0}
    out = ["--table", "t", "--folder", str(tmp_path / "out")]
    assert experiments.main(out) == 1
    assert runs.made == ALL
    experiment = make(tmp_path)
    row = read(experiment)["rows"][0]
    assert row["errors"] == {"1": "ZeroDivisionError: by zero"}
    assert (row["test_error"], row["seeds"]) == (3.0, 2)
    assert row["states"] == {"0": "done", "1": "failed", "2": "done"}
    text = (experiment.root / "table.md").read_text()
    assert "| seed 1 |" in text
    assert "- DARTS-1st, seed 1 failed: ZeroDivisionError: by zero" in text
    failed = json.loads(experiment.lines[0].cells[1].failure.read_text())
    assert "Traceback" in failed["traceback"]
    assert "by zero" in capsys.readouterr().err

    runs.errors[("darts", 1)] = KeyboardInterrupt()
    with pytest.raises(SystemExit, match="130"):
        experiments.main(out)
    assert experiment.lines[0].cells[1].state() == "half done"
    runs.errors[("darts", 1)] = 3.0
    runs.made.clear()
    assert experiments.main(out) == 0
    assert runs.made == [("darts", 1)]
    assert "failed" not in (experiment.root / "table.md").read_text()


def test_rows_and_seeds_are_chosen(tmp_path, runs):
    experiment = make(tmp_path, seeds=[5, 3, 5])
    experiments.run(experiment, ["lfm"])
    assert runs.made == [("lfm_cw_darts", 5), ("lfm_cw_darts", 3)]
    plain, lfm = read(experiment)["rows"]
    assert (plain["seeds"], lfm["seeds"]) == (0, 2)
    with pytest.raises(mlopt.SettingsError, match=r"no row 'lfm2'; give one of plain, lfm"):
        experiments.run(experiment, ["lfm2"])


def test_runs_under_changed_defaults_are_refused(tmp_path, runs):
    experiment = make(tmp_path)
    experiments.run(experiment)
    path = experiment.lines[0].cells[1].folder / "settings.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "momentum": 0.8}))
    with pytest.raises(mlopt.SettingsError, match=r"momentum = 0\.8.* 0\.9\. Remove that folder"):
        make(tmp_path)
    del settings["momentum"]  # a setting that came later
    path.write_text(json.dumps({**settings, "device": "cuda"}))
    make(tmp_path)


# Several processes.

HOLD = """
import fcntl, sys
with open(sys.argv[1], "a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_cell_of_another_process_is_left_alone_until_that_ends(tmp_path, runs, capsys):
    experiment = make(tmp_path)
    cell = experiment.lines[0].cells[1]
    cell.folder.mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(cell._lock)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert cell.state() == "running"
        assert experiments.run(experiment) == 0
        assert "another process is at it" in capsys.readouterr().out
        other.kill()
    assert runs.made == [run for run in ALL if run != ("darts", 1)]
    assert read(experiment)["rows"][0]["states"]["1"] == "running"
    assert cell.state() == "half done"
    experiments.run(experiment)
    assert runs.made[-1] == ("darts", 1)


def test_a_cell_that_another_process_finishes_meanwhile_is_not_run_again(
    tmp_path, runs, monkeypatch
):
    cell = make(tmp_path, seeds=[0]).lines[0].cells[0]
    lock = cell_module.locked

    def late(path):  # the other process ends between the look at the result and the lock
        pipeline.run("darts", experiments.SCHEMES["darts"], cell.s)
        return lock(path)

    monkeypatch.setattr(cell_module, "locked", late)
    assert cell.attempt(experiments.start) == "done"
    assert runs.made == [("darts", 0)]


def test_an_evaluation_takes_what_the_search_of_its_seed_has_found(tmp_path, runs, evaluations):
    experiment = make(tmp_path, "transfer", seeds=[1, 2])
    experiments.run(experiment)
    assert runs.made == [("lfm_cw_darts", 1), ("lfm_cw_darts", 2)]
    searches = {cell.s.seed: cell for cell in make(tmp_path).lines[1].cells}
    assert evaluations.made == [
        (str(searches[1].folder), 1, False), ("DARTS_V2", 1, False),
        (str(searches[2].folder), 2, False), ("DARTS_V2", 2, False),
    ]  # fmt: skip
    assert searches[1].state() == "done"
    assert "| 10 GPU-days |" in (experiment.root / "table.md").read_text()
    runs.made.clear()
    experiments.run(make(tmp_path, seeds=[1, 2]))
    assert runs.made == [("darts", 1), ("darts", 2)]


def test_another_search_makes_another_evaluation(tmp_path, tables, evaluations):
    found, published = (line.cells[0].folder for line in make(tmp_path, "transfer").lines)
    tables(TABLE.replace("lambda_ = 2", "lambda_ = 3"))
    lines = make(tmp_path, "transfer").lines
    assert lines[0].cells[0].folder != found
    assert lines[1].cells[0].folder == published


def test_an_interrupted_evaluation_goes_on(tmp_path, runs, evaluations):
    evaluations.interrupt = True
    experiment = make(tmp_path, "transfer", seeds=[1])
    with pytest.raises(KeyboardInterrupt):
        experiments.run(experiment, ["published"])
    evaluations.interrupt = False
    experiments.run(experiment, ["published"])
    assert evaluations.made == [("DARTS_V2", 1, False), ("DARTS_V2", 1, True)]


@pytest.mark.parametrize("left", [{}, {"momentum": 0.8}, None])
def test_what_a_killed_run_leaves_blocks_nothing(tmp_path, runs, left):
    """Only the beginning of one, or one of an earlier version with another default."""
    cell = make(tmp_path, seeds=[0]).lines[0].cells[0]
    with RunFolder.create(
        cell.folder, {"example": "darts", **vars(cell.s), **(left or {})}
    ) as folder:
        folder.log("search", step=1)
    if left is None:
        (cell.folder / "settings.json").unlink()
    assert cell.state() == "half done"
    assert experiments.run(make(tmp_path, seeds=[0]), ["plain"]) == 0
    assert runs.resumed == [left == {}]
    assert cell.state() == "done"
    assert bool(RunFolder.open(cell.folder).metrics()) is (left == {})


def test_an_evaluation_fails_with_its_search(tmp_path, runs, evaluations):
    runs.errors[("lfm_cw_darts", 0)] = mlopt.DataError("no images")
    experiment = make(tmp_path, "transfer")
    assert experiments.run(experiment) == 1
    assert evaluations.made == [("DARTS_V2", 0, False)]
    error = read(experiment)["rows"][0]["errors"]["0"]
    assert "'lfm' failed: DataError: no images" in error
    assert make(tmp_path).lines[1].cells[0].state() == "failed"


def test_an_evaluation_waits_for_a_search_elsewhere(tmp_path, runs, evaluations):
    search = make(tmp_path).lines[1].cells[0]
    with cell_module.locked(search._lock):
        assert experiments.run(make(tmp_path, "transfer"), ["found"]) == 0
    assert runs.made == evaluations.made == []

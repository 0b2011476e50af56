"""examples/experiments.py: tables as data, cells that are run once, failures, locks, the report."""

import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

import evaluate  # noqa: E402
import experiment_cells  # noqa: E402
import experiment_tables  # noqa: E402
import experiments  # noqa: E402
import gan  # noqa: E402
import lfm_cw_darts  # noqa: E402
import loaders  # noqa: E402
import pipeline  # noqa: E402
import spaces  # noqa: E402
from settings import Settings  # noqa: E402

import mlopt  # noqa: E402
from mlopt.nas import GENOTYPES  # noqa: E402
from mlopt.report import RunFolder  # noqa: E402

TABLE = """
title = "A table"
source = "A paper, Table 1"
seeds.quick = [0, 1, 2]
settings.order = "first"
quick.dataset = "digits"

[[rows]]
name = "plain"
label = "DARTS-1st"
example = "darts"
settings.dataset = "cifar10"
published = 3.00
published_deviation = 0.14

[[rows]]
name = "lfm"
label = "LFM-CW"
example = "lfm_cw_darts"
settings.lambda_ = 2
settings.dataset = "cifar10"
quick.epochs = 7
"""


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """A folder of tables with one table "t"; returns how to write another."""
    folder = tmp_path / "experiments"
    folder.mkdir()
    monkeypatch.setattr(experiment_tables, "TABLES", folder)

    def write(text, name="t"):
        (folder / f"{name}.toml").write_text(text)

    write(TABLE)
    return write


class Runs:
    """Stands for `pipeline.run`: writes a run folder; the error is decided by row and seed."""

    def __init__(self):
        self.made = []
        self.errors = {}  # (example, seed): test error, or an exception

    def __call__(self, example, scheme, s):
        self.made.append((example, s.seed))
        assert scheme is experiment_cells.SCHEMES[example]
        settings = {"example": example, **vars(s)}
        with RunFolder.create(s.run_folder, settings) as folder:
            error = self.errors.get((example, s.seed), 1.0)
            if isinstance(error, BaseException):
                raise error
            folder.path("genotype.json").write_text(GENOTYPES["DARTS_V1"].to_json())
            row = {
                "name": example, "test_error": error, "parameters": 100 + s.seed,
                "device": s.device, "search_seconds": 3600.0 * (1 + s.seed),
                "retrain_seconds": 30.0,
            }  # fmt: skip
            folder.save_json("result.json", {"rows": [row, {"name": "chance", "test_error": 90.0}]})
        return [row]


@pytest.fixture
def runs(tables, monkeypatch):
    found = Runs()
    monkeypatch.setattr(pipeline, "run", found)
    return found


def make(tmp_path, table="t", preset="quick", **more):
    return experiments.make(table, preset, folder=tmp_path / "out", **more)


def read(experiment):
    return json.loads((experiment.root / "table.json").read_text())


# Seed by seed, so that a table that is not finished compares all rows.
ALL = [(example, seed) for seed in range(3) for example in ("darts", "lfm_cw_darts")]


# What runs, and what comes of it.


def test_mean_and_deviation_beside_the_published_figure(tmp_path, runs):
    runs.errors = {("darts", 0): 2.0, ("darts", 1): 3.0, ("darts", 2): 7.0}
    experiment = make(tmp_path)
    assert experiments.run(experiment) == 0
    assert runs.made == ALL
    plain, lfm = read(experiment)["rows"]
    assert plain["test_error"] == pytest.approx(4.0)
    assert plain["deviation"] == pytest.approx(7**0.5)  # ((2^2 + 1^2 + 3^2) / 2)^(1/2)
    assert (plain["published"], plain["source"]) == (3.0, "A paper, Table 1")
    assert plain["search_seconds"] == pytest.approx(7200)
    assert plain["parameters"] == pytest.approx(101)
    assert (plain["seeds"], plain["of"]) == (3, 3)
    assert (lfm["test_error"], lfm["deviation"], lfm["published"]) == (1.0, 0.0, None)
    assert lfm["settings"]["lambda_"] == 2
    text = (experiment.root / "table.md").read_text()
    row = next(line for line in text.splitlines() if "DARTS-1st" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        "DARTS-1st", "4.00 ± 2.65", "3 of 3", "3.00 ± 0.14", "101", "2 CPU hours", "30 s",
    ]  # fmt: skip
    assert "The paper's figures: A paper, Table 1." in text
    assert "They are of CIFAR-10 with the paper's budget; these runs have another one" in text
    assert "--table t --preset quick --seeds 0 1 2" in text
    assert "A paper, Table 1" in (experiment.root / "page.html").read_text()


def test_one_seed_has_no_deviation(tmp_path, runs):
    experiment = make(tmp_path, seeds=[4])
    experiments.run(experiment)
    assert runs.made == [("darts", 4), ("lfm_cw_darts", 4)]
    row = read(experiment)["rows"][0]
    assert (row["test_error"], row["deviation"], row["of"]) == (1.0, None, 1)
    text = (experiment.root / "table.md").read_text()
    assert "| 1.00          | 1 of 1 |" in text


def test_times_of_different_devices_have_no_mean(tmp_path, runs):
    experiments.run(make(tmp_path, seeds=[0]))
    experiment = make(tmp_path, seeds=[0, 1], given={"device": "cuda"})
    experiments.run(experiment)
    assert len(runs.made) == 4  # the device does not make it another run
    row = read(experiment)["rows"][0]
    assert "search_seconds" not in row
    assert row["test_error"] == 1.0


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
    (cell.folder / "left").touch()
    assert cell.state() == "half done"
    experiments.run(make(tmp_path))
    assert runs.made == [("lfm_cw_darts", 2)]
    assert not (cell.folder / "left").exists()


def test_an_interruption_loses_one_cell(tmp_path, runs):
    runs.errors[("darts", 2)] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        experiments.run(make(tmp_path))
    assert runs.made == ALL[:5]
    assert read(make(tmp_path))["rows"][0]["seeds"] == 2  # written after every cell
    runs.errors.clear()
    runs.made.clear()
    experiments.run(make(tmp_path))
    assert runs.made == ALL[4:]


def test_half_a_folder_is_no_obstacle(tmp_path, runs):
    """Killed while the folder was being made: settings.json is there, environment.json is not."""
    cell = make(tmp_path).lines[0].cells[0]
    cell.folder.mkdir(parents=True)
    (cell.folder / "settings.json").write_text("{}")
    assert experiments.run(make(tmp_path, seeds=[0])) == 0
    assert cell.state() == "done"


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
    with pytest.raises(KeyboardInterrupt):
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
    lock = experiment_cells._locked

    def late(path):  # the other process ends between the look at the result and the lock
        pipeline.run("darts", experiment_cells.SCHEMES["darts"], cell.s)
        return lock(path)

    monkeypatch.setattr(experiment_cells, "_locked", late)
    assert cell.attempt() == "done"
    assert runs.made == [("darts", 0)]


# Evaluations of what was found.

TRANSFER = """
title = "Transfer"
settings.dataset = "cifar100"
quick.dataset = "digits"

[[rows]]
name = "found"
label = "The cell of LFM-CW"
example = "evaluate"
genotype = "t/lfm"

[[rows]]
name = "published"
label = "DARTS"
example = "evaluate"
genotype = "DARTS_V2"
"""


class Evaluations:
    """Stands for `evaluate.run`."""

    def __init__(self):
        self.made = []
        self.interrupt = False

    def __call__(self, genotype, s, resume=False):
        self.made.append((genotype, s.seed, resume))
        settings = {"example": "evaluate", **vars(s)}
        folder = (
            RunFolder.open(s.run_folder) if resume else RunFolder.create(s.run_folder, settings)
        )
        folder.path("genotype.json").write_text(GENOTYPES["DARTS_V1"].to_json())
        if self.interrupt:
            raise KeyboardInterrupt
        row = {"name": "x", "test_error": 5.0, "device": "cuda", "search_seconds": 864000.0,
               "search_device": "cuda"}  # fmt: skip
        folder.save_json("result.json", {"rows": [row]})


@pytest.fixture
def evaluations(tables, monkeypatch):
    found = Evaluations()
    tables(TRANSFER, "transfer")
    monkeypatch.setattr(evaluate, "run", found)
    return found


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
    with experiment_cells._locked(search._lock):
        assert experiments.run(make(tmp_path, "transfer"), ["found"]) == 0
    assert runs.made == evaluations.made == []


# Bad input.


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title =", "titel =", r"t\.toml: there is no key 'titel'; known are title"),
        ('title = "A table"', "", r"t\.toml: title is missing"),
        ('"A table"', "7", r"t\.toml: title = 7 must be of type str"),
        ("[0, 1, 2]", "[0, 1, 0]", r"\[seeds\]: quick has twice the seed 0"),
        ("[0, 1, 2]", "[0, 0.5]", r"\[seeds\]: quick = .* whole numbers"),
        ("seeds.quick", "seeds.quik", r"\[seeds\]: there is no key 'quik'; known are"),
        ('order = "first"', 'ordr = "first"', r"t\.toml, \[settings\]: there is no setting 'ordr'"),
        ('order = "first"', 'order = "third"', r"\[settings\]: order = 'third' must be one of"),
        ('order = "first"', "order = 1", r"\[settings\]: order = 1 must be of type str"),
        ('order = "first"', "seed = 1", r"\[settings\]: seed is given with each run"),
        ('quick.dataset = "digits"', 'quick.dataset = "mnist"', r"\[quick\]: dataset = 'mnist'"),
        ("quick.epochs = 7", "quick.epochs = 7.5", r"row 'lfm', quick: epochs = 7\.5 .* type int"),
        ("quick.epochs = 7", "fast.epochs = 7", r"row 'lfm': there is no key 'fast'; known are"),
        ("lambda_ = 2", 'space = "nasnet"', r"row 'lfm', settings: space = 'nasnet' must be one"),
        ('"lfm_cw_darts"', '"lfm"', r"row 'lfm': there is no example 'lfm' to run; .*sgl_darts"),
        ('name = "lfm"', 'name = "plain"', r"t\.toml: two rows have the name 'plain'"),
        ('"LFM-CW"', '"DARTS-1st"', r"two rows have the label 'DARTS-1st'"),
        ('name = "lfm"', 'name = "a/b"', r"row 'a/b': a name has lower-case letters"),
        ('name = "lfm"', "", r"row 2: name is missing"),
        ("published = 3.00", 'published = "3"', r"row 'plain': published = '3' .* type float"),
        ('source = "A paper, Table 1"', "", r"row 'plain': published has no source"),
        ('"lfm_cw_darts"', '"evaluate"', r'row .lfm.: genotype and example = "evaluate"'),
        ('"LFM-CW"', '"LFM-CW"\ngenotype = "PDARTS"', r'genotype and example = "evaluate"'),
        ("source =", 'plot = "generator"\nsource =', r"plot = 'generator' is no setting that is"),
        ("[[rows]]", "[[rows]", r"t\.toml is not TOML"),
        (TABLE, 'title = ""\nrows = []', r"rows is empty"),
        (TABLE, 'title = ""\nrows = [3]', r"row 1 must be a table"),
    ],
)
def test_a_wrong_table_is_refused_before_anything_runs(tmp_path, tables, runs, old, new, message):
    assert old in TABLE
    tables(TABLE.replace(old, new))
    with pytest.raises(mlopt.SettingsError, match=message):
        make(tmp_path)
    assert not (tmp_path / "out").exists()


def test_two_rows_that_run_the_same_are_refused(tmp_path, tables):
    row = TABLE[TABLE.index("[[rows]]", TABLE.index("lfm") - 20) :]
    tables(TABLE + row.replace('"lfm"', '"lfm2"').replace("LFM-CW", "again"))
    with pytest.raises(mlopt.SettingsError, match=r"rows 'lfm' and 'lfm2' are the same run"):
        make(tmp_path)


def test_rows_that_a_preset_makes_equal_are_run_once(tmp_path, tables, runs):
    row = TABLE[TABLE.index("[[rows]]", TABLE.index("lfm") - 20) :].replace('"lfm"', '"lfm100"')
    tables(TABLE + row.replace("LFM-CW", "C100").replace("cifar10", "cifar100"))
    experiment = make(tmp_path, seeds=[0])
    experiments.run(experiment)
    assert runs.made == [("darts", 0), ("lfm_cw_darts", 0)]
    assert [row["seeds"] for row in read(experiment)["rows"]] == [1, 1, 1]
    assert "LFM-CW and C100 are one and the same run" in (experiment.root / "table.md").read_text()
    folders = [line.cells[0].folder for line in make(tmp_path, preset="paper").lines]
    assert len(set(folders)) == 3


@pytest.mark.parametrize(
    ("genotype", "message"),
    [
        ("DARTS_V3", "neither a published one"),
        ("nowhere/lfm", "neither a published one"),
        ("t/lfm3", "there is no row 'lfm3'"),
        ("transfer/published", "is not a search"),
    ],
)
def test_a_genotype_from_nowhere(tmp_path, tables, genotype, message):
    tables(TRANSFER.replace("t/lfm", genotype), "transfer")
    with pytest.raises(mlopt.SettingsError, match=rf"transfer\.toml, row 'found': .*{message}"):
        make(tmp_path, "transfer")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--table is missing: give one of t"),
        (["--table", "u"], "--table u: there is no such table; give one of t."),
        (["--table", "t", "--rows", "x"], "there is no row 'x'"),
        (["--table", "t", "--seeds", "-1"], "seed = -1 is too small"),
        (["--table", "t", "--set", "epochs"], "--set epochs: write name=value"),
        (["--table", "t", "--set", "epoch=3"], "--set: there is no setting 'epoch'"),
        (["--table", "t", "--set", "epochs=3.5"], "epochs = 3.5 must be of type int"),
        (["--table", "t", "--set", "seed=3"], "--set seed: use --seeds"),
        (["--table", "t", "--set", "space=nasnet"], "space = 'nasnet' must be one of"),
        (["--table", "t", "--workers", "-1"], "workers = -1 is too small"),
    ],
)
def test_a_wrong_command_line_ends_with_one_line(tmp_path, runs, arguments, message):
    with pytest.raises(SystemExit) as ended:
        experiments.main([*arguments, "--folder", str(tmp_path / "out")])
    assert str(ended.value).startswith("error: ")
    assert message in str(ended.value)
    assert runs.made == []


def test_what_the_command_line_sets(tmp_path):
    words = ["epochs=3", "space=pc-darts", "drop=[3, 2]", "synthetic_only=true", "lr=1"]
    options = experiments.parsed(["--device", "cuda", "--set", *words])
    assert experiments.given_settings(options) == {
        "epochs": 3, "space": "pc-darts", "drop": (3, 2), "synthetic_only": True, "lr": 1.0,
        "device": "cuda",
    }  # fmt: skip


def test_a_dry_run_runs_nothing(tmp_path, runs, capsys):
    words = ["--table", "t", "--folder", str(tmp_path / "out")]
    assert experiments.main([*words, "--dry-run"]) == 0
    assert runs.made == []
    assert not (tmp_path / "out").exists()
    assert "6 runs: 6 to run." in capsys.readouterr().out
    runs.errors[("darts", 1)] = ValueError()
    experiments.run(make(tmp_path), ["plain"])
    capsys.readouterr()
    experiments.main([*words, "--dry-run"])
    assert "6 runs: 2 done, 1 failed, 3 to run." in capsys.readouterr().out
    experiments.main([*words, "--dry-run", "--rows", "lfm", "--set", "epochs=2"])
    assert "3 runs: 3 to run." in capsys.readouterr().out


def test_the_lists(tables, capsys):
    experiments.main(["--list"])
    assert "A table" in capsys.readouterr().out
    experiments.main(["--list", "--table", "t"])
    text = capsys.readouterr().out
    assert "lfm_cw_darts" in text
    assert "DARTS-1st" in text


# Charts.

SWEEP = """
title = "Errors"
plot = "lambda_"
source = "A paper, Table 1"
seeds.paper = [0, 1]
settings.dataset = "cifar10"
""" + "".join(
    f"""
[[rows]]
name = "{name}-{value}"
label = "{name}, {value}"
series = "{name}"
example = "{example}"
settings.lambda_ = {value}
{"published = 9.5" if (name, value) == ("a", 1) else ""}
"""
    for name, example in {"a": "lfm_cw_darts", "b": "sgl_darts"}.items()
    for value in (1, 0.5)
)


def drawn(monkeypatch):
    """What the charts draw from now on: points with bars, and the paper's points."""
    from matplotlib.axes import Axes

    bars, points = [], []
    errorbar, plot = Axes.errorbar, Axes.plot

    def keep_bars(self, x, y, yerr=None, xerr=None, **more):
        bars.append((list(x), list(y), list(xerr if yerr is None else yerr)))
        return errorbar(self, x, y, yerr, xerr, **more)

    def keep_points(self, x, y, mark, **more):
        points.append((list(x), list(y)))
        return plot(self, x, y, mark, **more)

    monkeypatch.setattr(Axes, "errorbar", keep_bars)
    monkeypatch.setattr(Axes, "plot", keep_points)
    return bars, points


def test_errors_against_a_setting(tmp_path, tables, runs, monkeypatch):
    tables(SWEEP, "sweep")
    runs.errors = {("lfm_cw_darts", 0): 1.0, ("lfm_cw_darts", 1): 4.0}
    experiment = make(tmp_path, "sweep", "paper")
    experiments.run(experiment, ["a-1", "a-0.5", "b-0.5"])
    bars, points = drawn(monkeypatch)
    path = experiments.write_page(experiment)
    deviation = statistics.stdev([1.0, 4.0])
    assert bars == [
        ([0.5, 1.0], [2.5, 2.5], [pytest.approx(deviation)] * 2),
        ([0.5], [1.0], [0.0]),
    ]
    assert points == [([1.0], [9.5])]
    assert (path.parent / "error_against_lambda.svg").is_file()
    assert "data:image/svg+xml" in path.read_text()
    assert "cannot be compared" not in (path.parent / "table.md").read_text()


def test_errors_row_by_row(tmp_path, runs, monkeypatch):
    bars, points = drawn(monkeypatch)
    experiments.run(make(tmp_path, preset="paper", seeds=[0, 1]))
    assert bars == [([1.0, 1.0], [0, 1], [0.0, 0.0])]
    assert points == [([3.0], [0])]
    experiments.run(make(tmp_path, preset="paper", seeds=[0], given={"epochs": 3}))
    assert len(points) == 1  # another budget: not comparable


def test_without_a_result_there_is_no_chart(tmp_path, runs):
    runs.errors = {run: ValueError("no") for run in ALL}
    experiment = make(tmp_path)
    assert experiments.run(experiment) == 6
    assert "3 of 3" not in (experiment.root / "table.md").read_text()
    assert not (experiment.root / "errors.svg").exists()
    assert "<h2>" not in (experiment.root / "page.html").read_text()


# The tables that there are.

SHIPPED = experiment_tables.names()


def settings_of(table, preset, folder):
    lines = experiments.make(table, preset, folder=folder).lines
    return {line.row.name: line.cells[0].s for line in lines}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_tables(name, tmp_path):
    table = experiment_tables.read_table(name)
    papers = name not in ("matrix", "fashion")
    assert any(row.published for row in table.rows) == papers
    datasets = set()
    for preset in experiment_tables.PRESETS:
        experiment = experiments.make(name, preset, folder=tmp_path)
        assert not (preset == "quick" and experiment.comparable)
        if preset == "paper" and papers:
            assert experiment.comparable
            assert [cell.s.seed for cell in experiment.lines[0].cells] in ([0], [*range(1, 11)])
        datasets |= {line.cells[0].s.dataset for line in experiment.lines if preset == "quick"}
    assert datasets == {"fashion-mnist" if name == "fashion" else "digits"}


def test_the_matrix_has_every_scheme_on_every_space(tmp_path):
    experiment = experiments.make("matrix", folder=tmp_path)
    found = [
        (line.row.example, line.cells[0].s.space, line.cells[0].s.order)
        for line in experiment.lines
    ]
    bases = [
        ("darts", "first"), ("darts", "second"), ("p-darts", "first"), ("pc-darts", "first"),
        ("darts-minus", "first"),
    ]  # fmt: skip
    schemes = ["darts", "lfm_cw_darts", "sgl_darts"]
    expected = [(scheme, *base) for base, scheme in itertools.product(bases, schemes)]
    assert found == expected
    assert len({line.cells[0].folder for line in experiment.lines}) == 15


def test_the_ablations(tmp_path):
    values = [s.lambda_ for s in settings_of("ablation-lambda", "quick", tmp_path).values()]
    assert values == [0.1, 0.5, 1.0, 2.0, 3.0] * 2
    only = [s.synthetic_only for s in settings_of("ablation-synthetic", "quick", tmp_path).values()]
    assert only == [True, False] * 2
    generators = settings_of("ablation-generator", "paper", tmp_path)
    assert [s.generator for s in generators.values()] == ["dcgan", "wgan-gp", "biggan"]
    assert {s.order for s in generators.values()} == {"first"}


def test_tables_share_the_runs_that_they_have_in_common(tmp_path):
    def folder(table, row):
        lines = experiments.make(table, "paper", folder=tmp_path).lines
        return next(line.cells[0].folder for line in lines if line.row.name == row)

    shared = folder("lfm-cw-cifar10", "lfm-cw-darts-1st")
    assert folder("ablation-lambda", "darts-1st-1") == shared
    assert folder("ablation-synthetic", "darts-1st-both") == shared
    assert folder("ablation-generator", "biggan") == shared
    assert folder("ablation-lambda", "darts-1st-2") != shared
    plain = folder("lfm-cw-cifar100", "p-darts")
    assert folder("sgl-cifar100", "p-darts") == plain != shared


@pytest.mark.parametrize("row", ["dcgan", "wgan-gp", "biggan"])
def test_the_quick_generators_draw_digits(row, tmp_path):
    s = settings_of("ablation-generator", "quick", tmp_path)[row]
    data = loaders.load_data(s)
    generator, _ = gan.make_players(spaces.search_space(data, s), data, s)
    assert generator(torch.tensor([0, 1])).shape == (2, 1, 8, 8)


# For real.

TINY = {
    "channels": 4, "nodes": 1, "cells": 2, "epochs": 1, "generator_epochs": 0, "noise": 4,
    "generator_width": 2, "batch_size": 24, "train_images": 64, "eval_channels": 2,
    "eval_cells": 1, "eval_epochs": 1,
}  # fmt: skip


def test_two_real_cells(tmp_path, tables):
    given = {**TINY, "product": "exact"}
    experiment = make(tmp_path, seeds=[3], given=given)
    assert experiments.run(experiment) == 0
    cells = [line.cells[0] for line in experiment.lines]
    results = [cell.result() for cell in cells]
    assert [row["test_error"] for row in read(experiment)["rows"]] == [
        result["test_error"] for result in results
    ]
    page = (experiment.root / "page.html").read_text()
    assert page.count("data:image/svg+xml") == 3  # the chart and two rows' cells
    assert page.count("data:image/png") == 1
    assert 'class="pixels"' in page

    # What came before it in the process changes nothing of a cell.
    alone = Settings(**{**vars(cells[1].s), "run_folder": str(tmp_path / "alone")})
    torch.manual_seed(99)
    row = pipeline.run("lfm_cw_darts", lfm_cw_darts.scheme, alone)[0]
    assert row["test_error"] == results[1]["test_error"]
    found = [(path / "genotype.json").read_text() for path in (cells[1].folder, tmp_path / "alone")]
    assert found[0] == found[1]

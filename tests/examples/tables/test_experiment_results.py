"""What is printed, written and drawn of a table of experiments."""

import statistics

from compare import exact, rounding
from examples.tables.experiment_runs import ALL, make, read

import experiments


def test_mean_and_deviation_beside_the_published_figure(tmp_path, runs):
    runs.errors = {("darts", 0): 2.0, ("darts", 1): 3.0, ("darts", 2): 7.0}
    experiment = make(tmp_path)
    assert experiments.run(experiment) == 0
    assert runs.made == ALL
    plain, lfm = read(experiment)["rows"]
    assert plain["test_error"] == 4
    exact(plain["deviation"], 7**0.5, rounding(40))  # ((2^2 + 1^2 + 3^2) / 2)^(1/2)
    assert (plain["published"], plain["source"]) == (3.0, "A paper, Table 1")
    assert plain["search_seconds"] == 7200
    assert plain["parameters"] == 101
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
        ([0.5, 1.0], [2.5, 2.5], [deviation] * 2),
        ([0.5], [1.0], [0.0]),
    ]
    assert points == [([1.0], [9.5])]
    assert (path.parent / "error_against_lambda.svg").is_file()
    assert "data:image/svg+xml" in path.read_text()
    assert "cannot be compared" not in (path.parent / "table.md").read_text()


def test_errors_row_by_row(tmp_path, runs, monkeypatch):
    bars, points = drawn(monkeypatch)
    experiments.run(make(tmp_path, preset="paper", seeds=[0, 1]))
    assert bars == [([1.0], [0], [0.0]), ([1.0, 1.0], [0, 1], [0.0, 0.0])]  # the first cell, all
    assert points == [([3.0], [0])] * 2
    experiments.run(make(tmp_path, preset="paper", seeds=[0], given={"epochs": 3}))
    assert len(points) == 2  # another budget: not comparable


def test_without_a_result_there_is_no_chart(tmp_path, runs):
    runs.errors = {run: ValueError("no") for run in ALL}
    experiment = make(tmp_path)
    assert experiments.run(experiment) == 6
    assert "3 of 3" not in (experiment.root / "table.md").read_text()
    assert not (experiment.root / "errors.svg").exists()
    assert "<h2>" not in (experiment.root / "page.html").read_text()

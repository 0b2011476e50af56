"""examples/evaluate.py: any genotype, any data set, several seeds, a break, bad input."""

import json
import runpy
import statistics
import sys
from pathlib import Path

import pytest
import torch
from compare import exact, rounding
from examples.small_runs import left_by_overwriting
from image_files import CifarFiles, write_imagenet

import evaluate
import mlopt
from mlopt.nas import (
    GENOTYPES,
    EvaluationNetwork,
    ImageNetNetwork,
    count_parameters,
    multiply_adds,
)
from mlopt.report import RunFolder
from support import settings
from support.data import load_data
from support.results import result_table
from support.retraining import build

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = [
    "--train-images", "64", "--eval-channels", "4", "--eval-cells", "1", "--eval-epochs", "2",
    "--eval-batch-size", "32", "--auxiliary", "0", "--cutout", "0",
]  # fmt: skip


def small(tmp_path, *more):
    arguments = [*SMALL, "--run-folder", str(tmp_path / "run"), *more]
    return settings.parse(None, arguments, example="evaluate")


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes longer than training here; one test and the command line do it."""
    monkeypatch.setattr(evaluate, "draw", lambda *args, **kwargs: None)
    monkeypatch.setattr(evaluate, "write_report", lambda folder: folder.root)


def test_two_seeds_into_one_table(tmp_path, capsys):
    s = small(tmp_path, "--eval-seeds", "2", "--seed", "3", "--eval-label-smoothing", "0.1")
    rows = evaluate.run("DARTS_V2", s)
    names = ["DARTS_V2", "logistic regression", "chance", "DARTS_V2, seed 3", "DARTS_V2, seed 4"]
    assert [row["name"] for row in rows] == names
    errors = [row["test_error"] for row in rows[3:]]
    assert errors[0] != errors[1]
    bound = rounding(60)  # sums, quotients and a root of two numbers
    exact(rows[0]["test_error"], statistics.mean(errors), bound)
    exact(rows[0]["deviation"], statistics.stdev(errors), bound)
    top5 = [row["test_error_top5"] for row in rows[3:]]
    exact(rows[0]["test_error_top5"], statistics.mean(top5), bound)
    assert all(a < b for a, b in zip(top5, errors, strict=True))
    network = EvaluationNetwork(GENOTYPES["DARTS_V2"], 4, 1, 10, 1, auxiliary=False)
    assert rows[0]["parameters"] == count_parameters(network)
    assert rows[0]["multiply_adds"] == multiply_adds(network, (1, 8, 8))

    folder = tmp_path / "run"
    written = {path.name for path in folder.iterdir()}
    assert {"settings.json", "genotype.json", "cells.svg", "result.json", "report.html"} <= written
    assert {"retrain_3.pt", "retrain_4.pt"} <= written
    assert json.loads((folder / "result.json").read_text())["rows"] == rows
    assert "mean over seeds" in (folder / "report.html").read_text()
    logged = RunFolder.open(folder).metrics()
    assert [(row["phase"], row["epoch"]) for row in logged] == 2 * [("retrain", 0), ("retrain", 1)]
    assert ["seed_4/train/loss" in row for row in logged] == [False, False, True, True]
    table = result_table(rows)
    assert "deviation over seeds" in table
    assert not left_by_overwriting(folder)
    assert "top-5 error" in table
    assert "passes" not in table


class Interrupted(Exception):
    pass


def test_an_interrupted_run_goes_on_in_its_folder(tmp_path, monkeypatch, no_pictures, capsys):
    more = ("--eval-seeds", "2", "--eval-schedule", "linear", "--eval-warmup", "1")
    expected = evaluate.run("PDARTS", small(tmp_path / "whole", *more))

    log, count = RunFolder.log, iter(range(100))

    def interrupt(self, *args, **kwargs):
        log(self, *args, **kwargs)
        if next(count) == 3:  # in the last epoch of the second seed
            raise Interrupted

    s = small(tmp_path, *more)
    reported = []
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log", interrupt)
        patch.setattr(evaluate, "write_report", lambda folder: reported.append(folder.state))
        with pytest.raises(Interrupted):
            evaluate.run("PDARTS", s)
    assert reported == ["running", "interrupted"]
    with pytest.raises(mlopt.SettingsError, match="already exists"):
        evaluate.run("PDARTS", s)
    rows = evaluate.run("PDARTS", s, resume=True)
    for found, whole in zip(rows, expected, strict=True):
        for key in found.keys() - {"retrain_seconds"}:
            assert found[key] == whole[key], key
    epochs = [row["epoch"] for row in RunFolder.open(tmp_path / "run").metrics()]
    assert epochs == [0, 1, 0, 1]  # the one without a checkpoint was made, not logged again
    seconds = [row["seconds"] for row in RunFolder.open(tmp_path / "run").metrics()]
    assert seconds == sorted(seconds)
    assert rows[0]["retrain_seconds"] > seconds[-1]

    with pytest.raises(mlopt.SettingsError, match=r"eval_lr = .*not 0.5\. Give its settings"):
        evaluate.run("PDARTS", small(tmp_path, *more, "--eval-lr", "0.5"), resume=True)
    (tmp_path / "PDARTS.json").write_text(GENOTYPES["DARTS_V1"].to_json())
    with pytest.raises(mlopt.SettingsError, match="another genotype"):
        evaluate.run(str(tmp_path / "PDARTS.json"), s, resume=True)
    evaluate.run("PDARTS", small(tmp_path / "elsewhere", *more), resume=True)
    assert "There was no run in" in capsys.readouterr().out


def test_what_a_search_has_found_with_what_it_took(tmp_path, no_pictures):
    with RunFolder.create(tmp_path / "found", {"device": "cuda:1"}) as folder:
        folder.path("genotype.json").write_text(GENOTYPES["SGL_DARTS_CIFAR100_1ST"].to_json())
        folder.save_json("result.json", {"rows": [{"name": "SGL", "search_seconds": 129600.0}]})
    for number, given in enumerate([folder.root, folder.path("genotype.json")]):
        s = small(tmp_path / str(number), "--eval-epochs", "1")
        row = evaluate.run(str(given), s)[0]
        assert (row["name"], row["search_seconds"]) == ("found", 129600.0)
        assert "1.5 GPU-days" in result_table([row])
    together = {"search_seconds": 129600.0, "search_ranks": 2}
    folder.save_json("result.json", {"rows": [{"name": "SGL", **together}]})
    row = evaluate.search_cost(str(folder.root))
    assert row == {**together, "search_device": "cuda:1"}
    assert "3 GPU-days" in result_table([{"name": "found", **row}])
    s = small(tmp_path / "file", "--eval-epochs", "1")
    (tmp_path / "mine.json").write_text(GENOTYPES["DARTS_V1"].to_json())
    row = evaluate.run(str(tmp_path / "mine.json"), s)[0]
    assert (row["name"], "search_seconds" in row) == ("mine", False)


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_cifar_with_the_auxiliary_head(tmp_path, monkeypatch, dataset, no_pictures):
    files = CifarFiles(tmp_path / "files", monkeypatch)
    files.cifar10()
    files.cifar100()
    more = ["--dataset", dataset, "--data-root", str(files.root), "--eval-epochs", "1"]
    more += ["--auxiliary", "0.4", "--cutout", "16", "--drop-path", "0.3", "--eval-batch-size", "6"]
    more += ["--eval-cells", "2"]
    s = small(tmp_path, *more)
    row = evaluate.run("NASNet", s)[0]
    classes = {"cifar10": 10, "cifar100": 100}[dataset]
    network = EvaluationNetwork(GENOTYPES["NASNet"], 4, 2, classes)
    assert row["parameters"] == count_parameters(network)


def test_a_cell_of_cifar100_on_imagenet(tmp_path, no_pictures):
    """Class folders with JPEGs of odd sizes, grey and CMYK among them."""
    root = write_imagenet(tmp_path / "files", classes=6)
    more = ["--dataset", "imagenet", "--data-root", str(root), "--image-size", "40"]
    s = small(tmp_path, *more, "--eval-batch-size", "8", "--eval-label-smoothing", "0.1")
    rows = evaluate.run("DARTS_minus_cifar100_s0_0", s)
    assert [row["name"] for row in rows] == ["DARTS_minus_cifar100_s0_0", "chance"]
    network = ImageNetNetwork(GENOTYPES["DARTS_minus_cifar100_s0_0"], 4, 1, 6)
    assert rows[0]["parameters"] == count_parameters(network)
    assert rows[0]["multiply_adds"] == multiply_adds(network, (3, 40, 40))
    data = load_data(s)
    for form, kind in {"cifar": EvaluationNetwork, "imagenet": ImageNetNetwork}.items():
        chosen = small(tmp_path, *more, "--eval-form", form)
        assert type(build(GENOTYPES["PDARTS"], data, chosen)) is kind


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--genotype is missing"),
        (["--genotype", "DARTS_V3"], "did you mean DARTS_V"),
        (["--genotype", "other.json"], "'nor_conv_3x3'"),
        (["--genotype", "broken.json"], "broken.json"),
        (["--genotype", "DARTS_V2", "--auxiliary", "0.4"], "auxiliary=False"),
        (["--genotype", "DARTS_V2", "--eval-schedule", "linear", "--eval-warmup", "2"], "warm-up"),
    ],
)
def test_bad_input_ends_with_one_line(arguments, message, tmp_path, monkeypatch):
    cells = json.loads(GENOTYPES["DARTS_V2"].to_json())
    (tmp_path / "broken.json").write_text(json.dumps(cells)[:50])
    cells["normal"][3][0] = "nor_conv_3x3"  # of another search space
    (tmp_path / "other.json").write_text(json.dumps(cells))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        evaluate.main([*SMALL, *arguments])
    assert str(ended.value).startswith("error: ")
    assert message.lower() in str(ended.value).lower()
    assert not (tmp_path / "runs").exists()


def test_the_command_line(tmp_path, monkeypatch, capsys, no_charts):
    no_charts.undo()
    monkeypatch.chdir(tmp_path)
    program = EXAMPLES / "evaluate.py"
    monkeypatch.setattr(sys, "argv", [str(program), "--genotype", "DARTS_V1", *SMALL])
    runpy.run_path(str(program), run_name="__main__")
    assert "DARTS_V1" in capsys.readouterr().out
    assert (tmp_path / "runs" / "evaluate-DARTS_V1-digits-seed0" / "report.html").is_file()


@pytest.mark.slow
def test_the_quick_preset_learns_the_digits(tmp_path):
    s = settings.parse(None, ["--run-folder", str(tmp_path / "run")], example="evaluate")
    torch.manual_seed(0)
    rows = evaluate.run("DARTS_V2", s)
    assert rows[0]["test_error"] < 5

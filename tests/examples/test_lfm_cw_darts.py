"""LFM-CW, end to end and small, and what it refuses before any training."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from examples.small_runs import TINY, left_by_overwriting, small
from image_files import write_imagenet

import lfm_cw_darts
from support import pipeline, settings
from support.data import load_data, search_loaders

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    "more",
    [
        (),
        (
            "--product",
            "exact",
            "--discriminator",
            "own",
            "--pretrain",
            "1",
            "--class-loss-normalization",
            "mean",
            "--cells",
            "3",
            "--eval-cells",
            "3",
        ),  # fmt: skip
        # the matrix of examples has the first order every day, SGL's runs have the central product
        pytest.param(("--order", "first"), marks=pytest.mark.slow),
        pytest.param(("--product", "central"), marks=pytest.mark.slow),
    ],
)
def test_lfm_cw_runs_whole(tmp_path, more, capsys, no_charts):
    if not more:
        no_charts.undo()
    s = small(tmp_path, *more)
    rows = pipeline.run("lfm_cw_darts", lfm_cw_darts.scheme, s)
    folder = tmp_path / "run"
    assert rows[0]["name"] == "LFM-CW"
    assert rows[0]["passes"] > 0
    written = {path.name for path in folder.iterdir()}
    assert {"settings.json", "environment.json", "metrics.jsonl", "genotype.json"} <= written
    assert {"cells.svg", "result.json", "report.html", "samples"} <= written
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert any(len(row.get("class_losses", [])) == 10 for row in logged)
    assert {"plan", "search", "search-epoch", "retrain"} == {row["phase"] for row in logged}
    assert "LFM-CW" in (folder / "report.html").read_text()
    assert "report:" in capsys.readouterr().out
    assert not left_by_overwriting(folder)


def test_lfm_cw_evaluations_of_the_example(tmp_path):
    counts = {}
    for name, more in {
        "first": ("--order", "first"),
        "one-sided": ("--product", "one-sided"),
        "central": ("--product", "central"),
    }.items():
        s = small(tmp_path, "--generator-epochs", "0", *more)
        data = load_data(s)
        search = lfm_cw_darts.scheme(data, *search_loaders(data, s, plain=True), s)
        counts[name] = search.engine.plan().evaluations
    assert counts == {"first": 8, "one-sided": 11, "central": 14}


def test_lfm_cw_searches_a_subset_of_imagenet(tmp_path):
    """The PC-DARTS of Table 6 end to end, on files in ImageNet's form."""
    root = write_imagenet(tmp_path / "imagenet", classes=3, images=16)
    s = settings.parse(
        None,
        [
            *TINY, "--space", "pc-darts", "--dataset", "imagenet", "--data-root", str(root),
            "--image-size", "32", "--generator-size", "8", "--batch-size", "4", "--train-images",
            "0", "--auxiliary", "0", "--run-folder", str(tmp_path / "run"),
        ],
    )  # fmt: skip
    found = pipeline.run("lfm_cw_darts", lfm_cw_darts.scheme, s)
    assert found[0]["name"] == "LFM-CW on PC-DARTS"
    assert 0 <= found[0]["test_error"] <= 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "quik"], "no such preset; give one of paper, quick"),
        (["--epochs", "0"], "epochs = 0 is too small"),
        (["--lr", "nan"], "lr = nan is not a number"),
        (["--lr", "0.1", "--min-lr", "5"], "min_lr = 5.0 is above lr = 0.1"),
        (["--seed", "99999999999999999999"], "is too large"),
        (["--device", "nope"], "device = 'nope' cannot be used here"),
        (["--device", "cuda:99"], "device = 'cuda:99' cannot be used here"),
        (["--device", "meta"], "device = 'meta' cannot be used here"),
        (["--run-folder", "x" * 300], "cannot be read (File name too long)"),
        (["--data-root", "x" * 300, "--dataset", "cifar10"], "no folder xxx"),
        (["--data-root", "/nowhere", "--dataset", "cifar10"], "/nowhere"),
        (["--data-root", str(EXAMPLES), "--dataset", "fashion-mnist"], "fashion"),
    ],
)
def test_bad_input_ends_with_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lfm_cw_darts.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        pipeline.main("lfm_cw_darts", lfm_cw_darts.scheme, lfm_cw_darts.__doc__)
    assert str(ended.value).startswith("error: ")
    assert message.lower() in str(ended.value).lower()
    assert "\n" not in str(ended.value)
    assert not (tmp_path / "runs").exists()


def test_the_program_ends_with_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lfm_cw_darts.py", "--epochs", "0"])
    with pytest.raises(SystemExit, match="^error: .*epochs = 0 is too small"):
        runpy.run_path(str(EXAMPLES / "lfm_cw_darts.py"), run_name="__main__")


@pytest.mark.slow
def test_a_process_ends_with_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / "lfm_cw_darts.py", "--epochs", "0"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "epochs = 0 is too small" in done.stderr
    assert "Traceback" not in done.stderr

"""The examples run, end to end and small, and refuse bad input before any training."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

import darts  # noqa: E402
import hpo_ridge  # noqa: E402
import lfm_cw_darts  # noqa: E402
import pipeline  # noqa: E402
import settings  # noqa: E402

import mlopt  # noqa: E402

SMALL = [
    "--channels", "2", "--nodes", "1", "--epochs", "1", "--generator-epochs", "1",
    "--generator-width", "4", "--noise", "4", "--batch-size", "32", "--train-images", "128",
    "--eval-channels", "4", "--eval-epochs", "1",
]  # fmt: skip


def small(tmp_path, *more):
    return settings.parse(None, [*SMALL, "--run-folder", str(tmp_path / "run"), *more])


def test_ridge_penalties_beat_a_single_one():
    data = hpo_ridge.make_data()
    penalties, weights = hpo_ridge.learn_penalties(data)
    _, single = hpo_ridge.best_single_penalty(data)
    assert hpo_ridge.error(data["test"], weights) < 0.5 * hpo_ridge.error(data["test"], single)
    assert penalties[hpo_ridge.RELEVANT :].mean() > 1


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--order", "first"),
        ("--product", "central", "--discriminator", "own"),
        ("--product", "exact", "--pretrain", "1", "--class-loss-normalization", "mean"),
    ],
)
def test_lfm_cw_runs_whole(tmp_path, more, capsys):
    s = small(tmp_path, *more)
    rows = pipeline.run("lfm_cw_darts", lfm_cw_darts.scheme, s, plain=True)
    folder = tmp_path / "run"
    assert rows[0]["name"] == "LFM-CW"
    assert rows[0]["passes"] > 0
    written = {path.name for path in folder.iterdir()}
    assert {"settings.json", "environment.json", "metrics.jsonl", "genotype.json"} <= written
    assert {"cells.svg", "result.json", "report.html", "samples"} <= written
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert any(len(row.get("class_losses", [])) == 10 for row in logged)
    assert {"search", "search-epoch", "retrain"} == {row["phase"] for row in logged}
    assert "LFM-CW" in (folder / "report.html").read_text()
    assert "report:" in capsys.readouterr().out


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("steps", ["lower-first", "upper-first"])
def test_darts_runs_whole(tmp_path, order, steps):
    s = small(tmp_path, "--order", order, "--steps", steps)
    rows = pipeline.run("darts", darts.scheme, s, plain=False)
    assert [row["name"] for row in rows] == ["DARTS", "logistic regression", "chance"]
    assert rows[0]["parameters"] > 0


def test_lfm_cw_evaluations_of_the_example(tmp_path):
    counts = {}
    for name, more in {
        "first": ("--order", "first"),
        "one-sided": ("--product", "one-sided"),
        "central": ("--product", "central"),
    }.items():
        s = small(tmp_path, "--generator-epochs", "0", *more)
        data = pipeline.load_data(s)
        search = lfm_cw_darts.scheme(data, *pipeline.search_loaders(data, s, plain=True), s)
        counts[name] = search.engine.plan().evaluations
    assert counts == {"first": 7, "one-sided": 10, "central": 13}


def test_an_existing_run_folder_is_refused(tmp_path):
    s = small(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep me")
    with pytest.raises(mlopt.SettingsError, match=r"run.*(overwrite|another)"):
        pipeline.run("darts", darts.scheme, s, plain=False)
    assert (tmp_path / "run" / "mine.txt").read_text() == "keep me"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "quik"], "no such preset; give one of paper, quick"),
        (["--epochs", "0"], "epochs = 0 is too small"),
        (["--data-root", "/nowhere", "--dataset", "cifar10"], "/nowhere"),
        (["--data-root", str(EXAMPLES), "--dataset", "fashion-mnist"], "fashion"),
    ],
)
def test_bad_input_ends_with_one_line(arguments, message, tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / "lfm_cw_darts.py", *arguments],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_preset_with_an_unknown_setting_is_refused(tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text("chanels = 3\n")
    monkeypatch.setattr(settings, "CONFIGS", tmp_path)
    with pytest.raises(mlopt.SettingsError, match="chanels"):
        settings.read_preset("mine")
    (tmp_path / "mine.toml").write_text('epochs = "many"\n')
    with pytest.raises(mlopt.SettingsError, match="must be of type int"):
        settings.read_preset("mine")


def test_the_paper_preset_is_tables_6_and_7():
    s = settings.Settings(**settings.read_preset("paper"))
    assert (s.channels, s.cells, s.epochs, s.batch_size, s.lambda_) == (16, 8, 50, 64, 1.0)
    assert (s.lr, s.min_lr, s.arch_lr, s.arch_weight_decay) == (0.025, 0.001, 3e-4, 1e-3)
    assert (s.gan_lr, s.clip, s.momentum, s.weight_decay) == (2e-4, 5.0, 0.9, 3e-4)
    assert (s.eval_channels, s.eval_cells, s.eval_epochs, s.eval_batch_size) == (36, 20, 600, 96)
    assert (s.auxiliary, s.cutout, s.drop_path) == (0.4, 16, 0.3)

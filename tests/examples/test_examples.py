"""The examples run, end to end and small, and refuse bad input before any training."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from image_files import CifarFiles, write_fashion

import darts
import hpo_ridge
import lfm_cw_darts
import mlopt
import sgl_darts
from mlopt.nas import Genotype
from support import pipeline, settings
from support.data import load_data, search_loaders
from support.results import standard_error
from support.search import run_search, validation

EXAMPLES = Path(__file__).parents[2] / "examples"
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
    rows = pipeline.run("lfm_cw_darts", lfm_cw_darts.scheme, s)
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
    rows = pipeline.run("darts", darts.scheme, s)
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
        data = load_data(s)
        search = lfm_cw_darts.scheme(data, *search_loaders(data, s, plain=True), s)
        counts[name] = search.engine.plan().evaluations
    assert counts == {"first": 7, "one-sided": 10, "central": 13}


def sgl(tmp_path, *more):
    return settings.parse(
        None, [*SMALL, "--run-folder", str(tmp_path / "run"), *more], example="sgl_darts"
    )


@pytest.mark.parametrize(
    ("learners", "more"),
    [
        (2, ("--order", "first")),
        (2, ("--product", "central", "--retrain", "all")),
        (3, ("--order", "first", "--retrain", "all", "--pretrain", "1", "--warmup", "1")),
        (3, ("--product", "one-sided")),
    ],
)
def test_sgl_runs_whole(tmp_path, learners, more, capsys):
    s = sgl(tmp_path, "--learners", str(learners), *more)
    assert s.lambda_ == 0.1
    rows = pipeline.run("sgl_darts", sgl_darts.scheme, s)
    folder = tmp_path / "run"

    found = json.loads((folder / "learners.json").read_text())
    assert len(found["learners"]) == learners
    assert len(found["pairs"]) == learners * (learners - 1) // 2
    losses = [row["validation/loss"] for row in found["learners"]]
    assert losses[0] == min(losses)
    best = int(found["learners"][0]["name"].split()[1])
    texts = [(folder / f"genotype_learner_{k + 1}.json").read_text() for k in range(learners)]
    assert (folder / "genotype.json").read_text() == texts[best - 1]
    assert str(Genotype.from_json(texts[best - 1])) == found["learners"][0]["genotype"]
    assert all((folder / f"cells_learner_{k + 1}.svg").is_file() for k in range(learners))

    others = [f"SGL learner {k + 1}" for k in range(learners) if k + 1 != best]
    names = ["SGL", *(others if s.retrain == "all" else []), "logistic regression", "chance"]
    assert [row["name"] for row in rows] == names
    assert all("test_error" in row for row in rows)
    tested = [row for row in found["learners"] if "test_error" in row]
    assert [row["test_error"] for row in tested] == [
        row["test_error"] for row in rows[: len(tested)]
    ]

    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    validated = [row for row in logged if row["phase"] == "search-epoch"]
    assert len(validated) == s.pretrain + s.epochs
    assert validated[-1][f"learner_{best}/validation/loss"] == losses[0]
    assert 0 < validated[-1]["agreement/total_variation"] < 1
    text = (folder / "report.html").read_text()
    assert "The learners" in text
    assert f"the result is that of learner {best}" in text
    assert capsys.readouterr().out.count("reduce cell") == learners


def test_a_group_of_one_is_the_plain_search(tmp_path, capsys):
    s = sgl(tmp_path, "--learners", "1")
    (one, *_) = pipeline.run("sgl_darts", sgl_darts.scheme, s)
    assert "nobody teaches it, so this is the plain search" in capsys.readouterr().out
    plain = dataclasses.replace(s, learners=2, run_folder=str(tmp_path / "plain"))
    (other, *_) = pipeline.run("darts", darts.scheme, plain)
    assert one["name"] == other["name"] == "DARTS"
    assert one["test_error"] == other["test_error"]
    found = [(tmp_path / f / "genotype.json").read_text() for f in ("run", "plain")]
    assert found[0] == found[1]


@pytest.mark.parametrize("example", [sgl_darts, lfm_cw_darts])
def test_a_scheme_beside_the_plain_search(tmp_path, monkeypatch, capsys, example):
    name = example.__name__
    monkeypatch.chdir(tmp_path)
    arguments = [*SMALL, "--run-folder", "both", "--beside-plain", "--learners", "2"]
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments, "--retrain", "all"])
    pipeline.main(name, example.scheme, example.__doc__)
    title = example.scheme.title
    result = json.loads((tmp_path / "both" / "result.json").read_text())
    names = [row["name"] for row in result["rows"]]
    group = [f"{title} learner"] * (name == "sgl_darts")
    assert [row.rstrip(" 12") for row in names] == [
        title, *group, "DARTS", "logistic regression", "chance",
    ]  # fmt: skip
    plain = json.loads((tmp_path / "both" / "darts" / "result.json").read_text())["rows"][0]
    assert plain == result["rows"][names.index("DARTS")]
    shown = capsys.readouterr().out.splitlines()[-len(names) :]
    assert [line.split("  ")[0].strip("| ") for line in shown] == names
    assert "DARTS" in (tmp_path / "both" / "report.html").read_text()


def test_sgl_passes_are_counted_over_all_learners(tmp_path):
    """Two learners in first order: 10 passes a step, and a validation pass each and batch."""
    s = sgl(tmp_path, "--order", "first")
    data = load_data(s)
    loaders = search_loaders(data, s, unlabeled=True)
    search = sgl_darts.scheme(data, *loaders, s)
    search.engine.step()  # preceded by the reading check
    with mlopt.report.RunFolder.create(tmp_path / "run", {}) as folder:
        run_search(search, loaders, folder, data, s)
    assert search.spent.passes == 10 * len(loaders[0]) + 2 * len(loaders[1])


@pytest.mark.parametrize(
    ("losses", "best"),
    [((0.3, 0.1, 0.2), 1), ((math.nan, 0.5, 0.4), 2), ((0.2, 0.2, 0.3), 0)],
)
def test_the_best_learner_is_that_of_the_lowest_validation_loss(tmp_path, losses, best):
    s = sgl(tmp_path, "--learners", "3")
    data = load_data(s)
    loaders = search_loaders(data, s, unlabeled=True)
    search = sgl_darts.scheme(data, *loaders, s)
    search.validation = validation(search.learners, loaders[1], "cpu")
    for k, loss in enumerate(losses, start=1):
        search.validation[f"learner_{k}/validation/loss"] = loss
    assert search.best == best
    with mlopt.report.RunFolder.create(tmp_path / "run", {}) as folder:
        genotypes = pipeline.derive_all(search, folder, "a group")
        pipeline.save_learners(search, genotypes, {best: {"test_error": 7.0}}, folder)
        chosen, *others = folder.read_json("learners.json")["learners"]
        assert folder.read_json("genotype.json") == json.loads(genotypes[best].to_json())
    assert chosen["name"] == f"learner {best + 1}"
    assert chosen["genotype"] == str(genotypes[best])
    assert chosen["test_error"] == 7.0
    assert [row["name"] for row in others] == [f"learner {k + 1}" for k in range(3) if k != best]
    assert not any("test_error" in row for row in others)


def test_held_out_images_are_in_neither_half(tmp_path):
    s = sgl(tmp_path, "--train-images", "0")
    data = load_data(s)
    train, valid, unlabeled = search_loaders(data, s, unlabeled=True)
    parts = [loader.dataset.part.images for loader in (train, valid, unlabeled)]
    assert [len(images) for images in parts] == [451, 451, 450]
    together = torch.cat(parts).flatten(1).tolist()
    assert sorted(together) == sorted(data.train_images.flatten(1).tolist())
    batch = next(iter(unlabeled))
    assert isinstance(batch, torch.Tensor)
    assert len(batch) == len(next(iter(train))[0]) == 32


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    files = CifarFiles(tmp_path / "files", monkeypatch)
    files.cifar10(per_file=12)
    files.cifar100()
    return files.root


def test_cifar10_takes_the_images_of_cifar100(tmp_path, cifar):
    """They are read with CIFAR-10's mean and deviation; CIFAR-100's images are all sevens."""
    s = sgl(
        tmp_path, "--dataset", "cifar10", "--data-root", str(cifar), "--batch-size", "6",
        "--retrain", "best",
    )  # fmt: skip
    data = load_data(s)
    train, valid, unlabeled = search_loaders(data, s, unlabeled=True)
    assert (len(train.dataset), len(valid.dataset), len(unlabeled.dataset)) == (30, 30, 6)
    (u,) = unlabeled
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (data.mean, data.std))
    black, seven = -mean / std, (7 / 255 - mean) / std  # crops are padded with black
    distance = torch.minimum((u - black).abs(), (u - seven).abs())
    assert distance.max() < 1e-6
    assert ((u - seven).abs() < 1e-6).all(0).any()

    rows = pipeline.run("sgl_darts", sgl_darts.scheme, s)
    assert [row["name"] for row in rows] == ["SGL", "logistic regression", "chance"]


def test_cifar100_takes_those_of_cifar10_or_its_own(tmp_path, cifar):
    options = ["--dataset", "cifar100", "--data-root", str(cifar), "--batch-size", "2"]
    other = sgl(tmp_path, *options)
    images = search_loaders(load_data(other), other, unlabeled=True)[2].dataset
    assert images.part.data.name == "cifar10"
    assert images.normalization.mean == (0.5071, 0.4867, 0.4408)
    own = sgl(tmp_path, *options, "--unlabeled", "held-out")
    parts = [loader.dataset for loader in search_loaders(load_data(own), own, unlabeled=True)]
    assert [len(part) for part in parts] == [2, 2, 2]
    assert {part.part.data.name for part in parts} == {"cifar100"}


def test_unlabeled_images_may_lie_elsewhere(tmp_path, monkeypatch):
    ten, hundred = (CifarFiles(tmp_path / name, monkeypatch) for name in ("ten", "hundred"))
    ten.cifar10()
    hundred.cifar100()
    options = ["--dataset", "cifar10", "--data-root", str(ten.root), "--batch-size", "2"]
    s = sgl(tmp_path, *options)
    with pytest.raises(mlopt.DataError, match="cifar100: there is no folder"):
        pipeline.run("sgl_darts", sgl_darts.scheme, s)
    assert not (tmp_path / "run").exists()
    s = sgl(tmp_path, *options, "--unlabeled-root", str(hundred.root))
    loaders = search_loaders(load_data(s), s, unlabeled=True)
    assert loaders[2].dataset.part.data.name == "cifar100"


def test_sgl_on_fashion_mnist(tmp_path):
    write_fashion(tmp_path, train=60, test=20)
    s = sgl(
        tmp_path, "--dataset", "fashion-mnist", "--data-root", str(tmp_path), "--batch-size", "10"
    )
    rows = pipeline.run("sgl_darts", sgl_darts.scheme, s)
    assert rows[0]["name"] == "SGL"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learners", "0"], "learners = 0 is too small"),
        (["--unlabeled", "cifar10"], "give root, the folder that holds"),
        (["--lambda", "-1"], "lambda_ = -1.0 is too small"),
    ],
)
def test_bad_options_of_sgl_end_with_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sgl_darts.py", *arguments])
    with pytest.raises(SystemExit, match=message) as ended:
        pipeline.main("sgl_darts", sgl_darts.scheme, sgl_darts.__doc__)
    assert str(ended.value).startswith("error: ")
    assert "\n" not in str(ended.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("dataset", "message"),
    [("digits", r"cifar10 for digits.*\(3, 32, 32\), not \(1, 8, 8\)"), ("cifar10", "held-out")],
)
def test_unlabeled_images_that_do_not_fit(tmp_path, cifar, dataset, message):
    s = sgl(tmp_path, "--dataset", dataset, "--data-root", str(cifar), "--unlabeled", "cifar10")
    with pytest.raises(mlopt.MloptError, match=message):
        pipeline.run("sgl_darts", sgl_darts.scheme, s)
    assert not (tmp_path / "run").exists()


def test_an_existing_run_folder_is_refused(tmp_path):
    s = small(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep me")
    with pytest.raises(mlopt.SettingsError, match=r"run.*(overwrite|another)"):
        pipeline.run("darts", darts.scheme, s)
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


def test_the_standard_error_is_never_zero():
    assert standard_error(2.0, 400) == pytest.approx(0.7)
    assert standard_error(0.0, 98) == pytest.approx(100 * (0.01 * 0.99 / 98) ** 0.5)
    assert standard_error(100.0, 98) == pytest.approx(standard_error(0.0, 98))

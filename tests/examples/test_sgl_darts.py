"""SGL, end to end and small, and what it refuses before any training."""

import dataclasses
import json
import sys

import pytest
from examples.small_runs import left_by_overwriting, small_sgl
from image_files import write_fashion

import darts
import mlopt
import sgl_darts
from mlopt.nas import Genotype
from support import pipeline
from support.data import load_data, search_loaders
from support.search import run_search


@pytest.mark.parametrize(
    ("learners", "more"),
    [
        pytest.param(2, ("--order", "first"), marks=pytest.mark.slow),
        (2, ("--product", "central", "--retrain", "all")),
        (
            3,
            (
                "--order",
                "first",
                "--retrain",
                "all",
                "--pretrain",
                "1",
                "--warmup",
                "1",
                "--cells",
                "3",
                "--eval-cells",
                "3",
            ),  # fmt: skip
        ),
        pytest.param(3, ("--product", "one-sided"), marks=pytest.mark.slow),
    ],
)
def test_sgl_runs_whole(tmp_path, learners, more, capsys):
    s = small_sgl(tmp_path, "--learners", str(learners), *more)
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
    assert not left_by_overwriting(folder)


def test_a_group_of_one_is_the_plain_search(tmp_path, capsys):
    s = small_sgl(tmp_path, "--learners", "1")
    (one, *_) = pipeline.run("sgl_darts", sgl_darts.scheme, s)
    assert "nobody teaches it, so this is the plain search" in capsys.readouterr().out
    plain = dataclasses.replace(s, learners=2, run_folder=str(tmp_path / "plain"))
    (other, *_) = pipeline.run("darts", darts.scheme, plain)
    assert one["name"] == other["name"] == "DARTS"
    assert one["test_error"] == other["test_error"]
    found = [(tmp_path / f / "genotype.json").read_text() for f in ("run", "plain")]
    assert found[0] == found[1]


def test_sgl_passes_are_counted_over_all_learners(tmp_path):
    """Two learners in first order: 10 passes a step, and a validation pass each and batch."""
    s = small_sgl(tmp_path, "--order", "first")
    data = load_data(s)
    loaders = search_loaders(data, s, unlabeled=True)
    search = sgl_darts.scheme(data, *loaders, s)
    search.engine.step()  # preceded by the reading check
    with mlopt.report.RunFolder.create(tmp_path / "run", {}) as folder:
        run_search(search, loaders, folder, data, s)
    assert search.spent.passes == 10 * len(loaders[0]) + 2 * len(loaders[1])


def test_sgl_on_fashion_mnist(tmp_path):
    write_fashion(tmp_path, train=30, test=10)
    s = small_sgl(
        tmp_path, "--dataset", "fashion-mnist", "--data-root", str(tmp_path), "--batch-size", "10",
        "--order", "first",
    )  # fmt: skip
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

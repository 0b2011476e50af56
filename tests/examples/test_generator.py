"""The generator example: a whole small run, what it judges, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from compare import exact, rounding
from examples.small_runs import left_by_overwriting
from image_files import write_fashion
from torch import nn

import generator as example
import mlopt
from mlopt.data import load
from mlopt.generators import GANS
from mlopt.report import RunFolder

SMALL = [
    "--dataset", "digits", "--train-images", "200", "--batch-size", "20", "--steps", "3",
    "--width", "2", "--noise", "4", "--samples", "5", "--classifier-steps", "2",
]  # fmt: skip


def options(tmp_path: Path, *more: str) -> example.Options:
    return example.parse([*SMALL, "--run-folder", str(tmp_path / "run"), *more])


@pytest.mark.parametrize("family", GANS)
def test_every_family_runs_whole(tmp_path, family) -> None:
    s = options(tmp_path, "--family", family, "--d-steps", "2", "--per-class", "2")
    result = example.run(s)
    folder = tmp_path / "run"
    assert json.loads((folder / "result.json").read_text()) == result
    for name in ("settings.json", "metrics.jsonl", "generator.pt", "classifier.pt", "samples.png"):
        assert (folder / name).stat().st_size > 0, name
    rows = result["recognised"]
    assert [row["class"] for row in rows] == [*"0123456789", "all"]
    mean = sum(row["recognised"] for row in rows[:-1]) / 10
    exact(rows[-1]["recognised"], mean, rounding(60, dtype=torch.float32))  # means of 50 images
    table = (folder / "recognised.md").read_text()
    assert f"{result['classifier_accuracy']:.1f} % of the real test images" in table
    assert "| class | recognised, % |" in table
    assert len(table.splitlines()) == 3 + 2 + 11
    assert not left_by_overwriting(folder)


def test_a_seed_gives_a_run(tmp_path) -> None:
    results = []
    for seed, classifier in (("1", ""), ("1", str(tmp_path / "run0" / "classifier.pt")), ("2", "")):
        s = options(tmp_path, "--seed", seed, "--classifier", classifier, "--ema", "0")
        s = dataclasses.replace(s, run_folder=str(tmp_path / f"run{len(results)}"))
        results.append(example.run(s))
    weights = [torch.load(tmp_path / f"run{k}" / "generator.pt") for k in range(3)]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    assert not torch.equal(weights[0]["layers.0.weight"], weights[2]["layers.0.weight"])
    assert results[0]["recognised"] == results[1]["recognised"]  # the classifier from its file


def test_the_running_average_is_what_is_judged(tmp_path) -> None:
    plain = example.run(options(tmp_path, "--ema", "0"))
    weights = torch.load(tmp_path / "run" / "generator.pt")
    averaged = example.run(options(tmp_path, "--ema", "0.9", "--overwrite"))
    average = torch.load(tmp_path / "run" / "generator.pt")
    assert plain.keys() == averaged.keys()
    assert not torch.equal(weights["layers.0.weight"], average["layers.0.weight"])


def test_what_is_recognised_and_how_wide_it_spreads(tmp_path) -> None:
    """Real test images of each class, but those of class 3 replaced by equal ones of class 4."""
    data = load("digits")
    n = data.normalization
    images = n.to_generator(n.from_pixels(data.test.images))
    labels = data.test.labels
    chosen = [images[labels == c][:20] for c in range(10)]
    chosen[3] = chosen[4][:1].expand(20, -1, -1, -1)

    class Oracle(nn.Module):
        """Knows every test image."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            distance = torch.cdist(x.flatten(1), images.flatten(1))
            return self.scale * nn.functional.one_hot(labels[distance.argmin(1)], 10).float()

    s = options(tmp_path, "--samples", "20")
    rows, accuracy = example.judge(torch.cat(chosen), Oracle(), data, s)
    assert accuracy == 100
    assert [row["recognised"] for row in rows[:10]] == [100, 100, 100, 0, *[100] * 6]
    exact(rows[10]["recognised"], 90.0, rounding(200, dtype=torch.float32))  # of 200 images
    bound = rounding(300, dtype=torch.float32)  # means over 20 images and 64 pixels
    exact(rows[3]["spread"], 0.0, bound, scale=1.0)
    for c, row in enumerate(rows[:10]):
        real = images[labels == c].flatten(1)
        drawn = chosen[c].flatten(1)
        ratio = drawn.std(0, correction=0).mean() / real.std(0, correction=0).mean()
        exact(row["spread"], ratio, bound, scale=1.0)
    assert 0.7 < rows[0]["spread"] < 1.1


def test_the_classifier_learns_digits(tmp_path) -> None:
    """The classifier's own accuracy is measured on test images: a second on 1,000 digits."""
    s = options(tmp_path, "--train-images", "1000", "--classifier-steps", "80")
    assert 85 < example.run(s)["classifier_accuracy"] <= 100


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dcgan", "biggan"])
def test_digits_are_recognised(tmp_path, family) -> None:
    """The family's settings of the example, 200 steps: half a minute."""
    more = [
        "--family",
        family,
        "--dataset",
        "digits",
        "--steps",
        "200",
        "--classifier-steps",
        "400",
    ]
    result = example.run(example.parse([*more, "--run-folder", str(tmp_path / "run")]))
    assert result["classifier_accuracy"] > 95
    assert result["recognised"][-1]["recognised"] > 60
    assert result["recognised"][-1]["spread"] > 0.2


def test_fashion_mnist_from_files(tmp_path) -> None:
    write_fashion(tmp_path, train=60, test=20)
    s = options(tmp_path, "--dataset", "fashion-mnist", "--data-root", str(tmp_path))
    result = example.run(s)
    assert result["dataset"] == "fashion-mnist"
    assert result["recognised"][0]["class"] == "T-shirt/top"


def test_defaults_are_the_family_s() -> None:
    for family, small in example.SMALL.items():
        s = example.parse(["--family", family])
        for name, value in small.items():
            assert getattr(s, name) == value
    assert example.parse([]).family == "dcgan"
    assert example.parse(["--family", "biggan", "--steps", "7"]).steps == 7
    assert example.parse([]).run_path() == Path("runs/dcgan-fashion-mnist-seed0")


def test_what_is_refused(tmp_path) -> None:
    with pytest.raises(mlopt.SettingsError, match="--steps must be at least 1"):
        options(tmp_path, "--steps", "0")
    with pytest.raises(SystemExit):
        options(tmp_path, "--family", "stylegan")
    with pytest.raises(mlopt.DataError, match="--classifier .*nothing.pt: is not"):
        example.run(options(tmp_path, "--classifier", str(tmp_path / "nothing.pt")))
    other = tmp_path / "other.pt"
    torch.save({"0.weight": torch.zeros(1)}, other)
    with pytest.raises(mlopt.DataError, match="other.pt: is not this classifier's file"):
        example.run(options(tmp_path, "--classifier", str(other), "--overwrite"))
    with pytest.raises(mlopt.SettingsError, match="already exists"):
        example.run(options(tmp_path))


def test_an_interrupted_run_goes_on_in_its_folder(tmp_path, monkeypatch) -> None:
    more = ("--steps", "110", "--ema", "0.9")
    whole = example.run(options(tmp_path / "whole", *more))
    log = RunFolder.log

    def interrupt(self, *arguments, **row) -> None:
        log(self, *arguments, **row)
        if row["step"] == 100:  # before it is saved
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log", interrupt)
        with pytest.raises(KeyboardInterrupt):
            example.run(options(tmp_path, *more))
    with pytest.raises(mlopt.SettingsError, match="Give --resume to go on"):
        example.run(options(tmp_path, *more))
    found = example.run(options(tmp_path, *more, "--resume"))
    assert {**found, "seconds": 0} == {**whole, "seconds": 0}
    rows = RunFolder.open(tmp_path / "run").metrics()
    assert [row["step"] for row in rows] == [50, 100, 110]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    for name in ("generator.pt", "classifier.pt"):
        one, other = (torch.load(tmp_path / f / "run" / name) for f in (".", "whole"))
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    again = example.run(options(tmp_path, *more, "--resume"))
    assert again == found  # a finished one is only read

"""The unlabeled images of SGL: held out, or those of the other CIFAR."""

import dataclasses

import pytest
import torch
from compare import exact, rounding
from examples.small_runs import small_sgl
from image_files import CifarFiles

import mlopt
import sgl_darts
from support import pipeline
from support.data import load_data, search_loaders


def test_held_out_images_are_in_neither_half(tmp_path):
    s = small_sgl(tmp_path, "--train-images", "0")
    data = load_data(s)
    train, valid, unlabeled = search_loaders(data, s, unlabeled=True)
    parts = [loader.dataset.part.images for loader in (train, valid, unlabeled)]
    assert [len(images) for images in parts] == [451, 451, 450]
    together = torch.cat(parts).flatten(1).tolist()
    assert sorted(together) == sorted(data.train_images.flatten(1).tolist())
    batch = next(iter(unlabeled))
    assert isinstance(batch, torch.Tensor)
    assert len(batch) == len(next(iter(train))[0]) == s.batch_size == 20


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    files = CifarFiles(tmp_path / "files", monkeypatch)
    files.cifar10(per_file=12)
    files.cifar100()
    return files.root


def test_cifar10_takes_the_images_of_cifar100(tmp_path, cifar):
    """They are read with CIFAR-10's mean and deviation; CIFAR-100's images are all sevens."""
    s = small_sgl(
        tmp_path, "--dataset", "cifar10", "--data-root", str(cifar), "--batch-size", "6",
        "--retrain", "best", "--order", "first",
    )  # fmt: skip
    data = load_data(s)
    train, valid, unlabeled = search_loaders(data, s, unlabeled=True)
    assert (len(train.dataset), len(valid.dataset), len(unlabeled.dataset)) == (30, 30, 6)
    (u,) = unlabeled
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (data.mean, data.std))
    black, seven = -mean / std, (7 / 255 - mean) / std  # crops are padded with black
    sevens = (u - seven).abs() < (u - black).abs()
    exact(u, torch.where(sevens, seven, black), rounding(4, dtype=torch.float32))
    assert sevens.all(0).any()

    s = dataclasses.replace(s, train_images=24)
    rows = pipeline.run("sgl_darts", sgl_darts.scheme, s)
    assert [row["name"] for row in rows] == ["SGL", "logistic regression", "chance"]


def test_cifar100_takes_those_of_cifar10_or_its_own(tmp_path, cifar):
    options = ["--dataset", "cifar100", "--data-root", str(cifar), "--batch-size", "2"]
    other = small_sgl(tmp_path, *options)
    images = search_loaders(load_data(other), other, unlabeled=True)[2].dataset
    assert images.part.data.name == "cifar10"
    assert images.normalization.mean == (0.5071, 0.4867, 0.4408)
    own = small_sgl(tmp_path, *options, "--unlabeled", "held-out")
    parts = [loader.dataset for loader in search_loaders(load_data(own), own, unlabeled=True)]
    assert [len(part) for part in parts] == [2, 2, 2]
    assert {part.part.data.name for part in parts} == {"cifar100"}


def test_unlabeled_images_may_lie_elsewhere(tmp_path, monkeypatch):
    ten, hundred = (CifarFiles(tmp_path / name, monkeypatch) for name in ("ten", "hundred"))
    ten.cifar10()
    hundred.cifar100()
    options = ["--dataset", "cifar10", "--data-root", str(ten.root), "--batch-size", "2"]
    s = small_sgl(tmp_path, *options)
    with pytest.raises(mlopt.DataError, match="cifar100: there is no folder"):
        pipeline.run("sgl_darts", sgl_darts.scheme, s)
    assert not (tmp_path / "run").exists()
    s = small_sgl(tmp_path, *options, "--unlabeled-root", str(hundred.root))
    loaders = search_loaders(load_data(s), s, unlabeled=True)
    assert loaders[2].dataset.part.data.name == "cifar100"


@pytest.mark.parametrize(
    ("dataset", "message"),
    [("digits", r"cifar10 for digits.*\(3, 32, 32\), not \(1, 8, 8\)"), ("cifar10", "held-out")],
)
def test_unlabeled_images_that_do_not_fit(tmp_path, cifar, dataset, message):
    s = small_sgl(
        tmp_path, "--dataset", dataset, "--data-root", str(cifar), "--unlabeled", "cifar10"
    )
    with pytest.raises(mlopt.MloptError, match=message):
        pipeline.run("sgl_darts", sgl_darts.scheme, s)
    assert not (tmp_path / "run").exists()

"""Fashion-MNIST from idx files that the tests write, and from Debian's where they are installed."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch
from compare import near
from image_files import idx
from torchvision import datasets

from mlopt._errors import DataError
from mlopt.data import load
from mlopt.data.fashion import CLASSES, DEBIAN

FILES = {
    "train-images-idx3-ubyte": (5, 28, 28),
    "train-labels-idx1-ubyte": (5,),
    "t10k-images-idx3-ubyte": (3, 28, 28),
    "t10k-labels-idx1-ubyte": (3,),
}


@pytest.fixture
def values() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randint(0, 256 if len(shape) == 3 else 10, shape, generator=generator)
        for name, shape in FILES.items()
    }


@pytest.fixture
def root(tmp_path: Path, values: dict[str, torch.Tensor]) -> Path:
    for name, tensor in values.items():
        (tmp_path / name).write_bytes(idx(tensor))
    return tmp_path


def check(root: Path, values: dict[str, torch.Tensor]) -> None:
    data = load("fashion-mnist", root)
    assert (data.classes, data.channels, data.image_size) == (10, 1, 28)
    assert data.train_images.tolist() == values["train-images-idx3-ubyte"].unsqueeze(1).tolist()
    assert data.train_labels.tolist() == values["train-labels-idx1-ubyte"].tolist()
    assert data.test_images.tolist() == values["t10k-images-idx3-ubyte"].unsqueeze(1).tolist()
    assert data.test_labels.tolist() == values["t10k-labels-idx1-ubyte"].tolist()


def test_plain_files(root, values) -> None:
    check(root, values)


def test_compressed_files(root, values) -> None:
    for name in FILES:
        (root / f"{name}.gz").write_bytes(gzip.compress((root / name).read_bytes()))
        (root / name).unlink()
    check(root, values)


def test_torchvisions_folders_and_reader_agree(root, values, tmp_path_factory) -> None:
    other = tmp_path_factory.mktemp("torchvision")
    raw = other / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        (root / name).rename(raw / name)
    check(other, values)
    theirs = datasets.FashionMNIST(other, train=True)
    assert theirs.data.tolist() == load("fashion-mnist", other).train_images.squeeze(1).tolist()
    assert tuple(theirs.classes) == CLASSES


def test_missing_folder(tmp_path) -> None:
    with pytest.raises(DataError, match=r"no folder .*nowhere.*dataset-fashion-mnist"):
        load("fashion-mnist", tmp_path / "nowhere")


def test_missing_debian_package(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("mlopt.data.fashion.DEBIAN", tmp_path / "not-installed")
    with pytest.raises(DataError, match="not-installed"):
        load("fashion-mnist")


def test_missing_file(root) -> None:
    (root / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="neither .*t10k-labels-idx1-ubyte nor"):
        load("fashion-mnist", root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with nothing"),
        (b"hello world, no idx", "starts with 68656c6c, not 00000803"),
        (idx(torch.zeros(5)), "starts with 00000801, not 00000803"),
        (idx(torch.zeros(5, 28, 28))[:-1], "announces 3920 bytes .* holds 3919"),
        (idx(torch.zeros(5, 28, 28)) + b"x", "announces 3920 bytes .* holds 3921"),
        (idx(torch.zeros(5, 14, 14)), r"images of \(14, 14\) pixels"),
        (idx(torch.zeros(0, 28, 28)), "is empty"),
        (idx(torch.zeros(4, 28, 28)), "4 images but 5 labels"),
    ],
    ids=["nothing", "magic", "axes", "short", "long", "size", "empty", "count"],
)
def test_files_that_hold_something_else(root, content, message) -> None:
    (root / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load("fashion-mnist", root)


def test_a_broken_compressed_file(root) -> None:
    name = root / "train-images-idx3-ubyte"
    packed = gzip.compress(name.read_bytes())
    name.unlink()
    for content in (packed[:-20], b"no gzip", packed[:40] + b"\xff" * 40 + packed[80:]):
        name.with_name(f"{name.name}.gz").write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            load("fashion-mnist", root)


def test_a_label_outside_the_classes(root) -> None:
    (root / "t10k-labels-idx1-ubyte").write_bytes(idx(torch.tensor([0, 10, 3])))
    with pytest.raises(DataError, match=r"test part: labels range over 0\.\.10"):
        load("fashion-mnist", root)


WRITTEN = "six digits: half a unit of the last is up to 1.8e-6"


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_published_files() -> None:
    data = load("fashion-mnist")
    assert (len(data.train), len(data.test)) == (60000, 10000)
    assert data.train_labels.bincount().tolist() == [6000] * 10
    assert data.test_labels[:5].tolist() == [9, 2, 1, 1, 6]  # Ankle boot, Pullover, Trouser, ...
    unit = data.train_images.double() / 255
    near(unit.mean(), data.mean[0], 2e-6, why=WRITTEN)
    near(unit.std(correction=0), data.std[0], 2e-6, why=WRITTEN)

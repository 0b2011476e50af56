"""The file of a training: no other training goes on from it, and no bit of it changes unseen."""

from __future__ import annotations

import copy
import os
import random
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mlopt._errors import CapabilityWarning, SettingsError
from mlopt.nas import retrain
from mlopt.nas.checkpoint import only_writer, read_checkpoint

BOTH = [".retrain.pt.before", "retrain.pt"]  # the last checkpoint, and that of the epoch before
X = torch.linspace(-1, 1, 96).view(24, 4)
Y = torch.arange(24) % 3


class Net(nn.Module):
    sign = 1.0

    def __init__(self, outputs: int = 3, act: type[nn.Module] = nn.Tanh, **own: object) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 5), act(), nn.BatchNorm1d(5))
        self.outer = nn.Linear(5, outputs)
        vars(self).update(own)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.outer(self.sign * self.inner(x)), None


class Negative(Net):
    sign = -1.0


class Mapped(TensorDataset):
    transform = staticmethod(abs)


def batches(x=X, y=Y, size=8, **kwargs):
    return DataLoader(TensorDataset(x, y), batch_size=size, shuffle=True, **kwargs)


def listed(x=X, y=Y, size=8):
    return list(zip(x.split(size), y.split(size), strict=True))


def train(path, network=None, data=None, epochs=2, **kwargs):
    network, data = network or Net(), data or batches()
    return retrain(network, data, epochs=epochs, checkpoint=path, progress=False, **kwargs)


def changed(tensor, index, value):
    other = tensor.clone()
    other[index] = value
    return other


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The checkpoint of a training that is over; it is only read."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("training") / "retrain.pt"
    train(path)
    return path


OTHERS = {
    "rate": ({}, {}, {"lr": 0.1}, "a training with lr=0.025, not 0.1"),
    "seed": ({}, {}, {"seed": 4}, "a training with seed=0, not 4"),
    "class": ({"kind": Negative}, {}, {}, "another network: the class is Net in it, not Negative"),
    "size": ({"outputs": 4}, {}, {}, r"another network: outer.weight is float32 \(3, 5\) in it"),
    "type": ({"double": True}, {}, {}, r"another network: inner.0.weight .* not float64 \(5, 4\)"),
    "layer": ({"act": nn.ReLU}, {}, {}, "another network: the digest of its layers"),
    "attribute": ({"sign": -1.0}, {}, {}, "another network: with the same weights.*other logits"),
    "length": ({}, {"x": X[:16], "y": Y[:16]}, {}, "other data: the number of batches is 3 .* 2"),
    "one number": ({}, {"x": changed(X, (23, 3), 0.9)}, {}, "other data: dataset.tensors"),
    "one label": ({}, {"y": changed(Y, 5, 0)}, {}, "other data: dataset.tensors"),
    "size of batches": ({}, {"size": 9}, {}, "other data: loader.batch_size is 8 in it, not 9"),
    "last batch": ({}, {"drop_last": True}, {}, "other data: loader.drop_last is False .*True"),
}  # fmt: skip


@pytest.mark.parametrize(("network", "data", "options", "said"), OTHERS.values(), ids=OTHERS)
def test_another_training_is_refused_and_nothing_has_changed(first, network, data, options, said):
    own = dict(network)
    made = own.pop("kind", Net)(**{k: v for k, v in own.items() if k != "double"})
    made = made.double() if own.get("double") else made
    before, file = copy.deepcopy(made.state_dict()), first.read_bytes()
    with pytest.raises(SettingsError, match=f"retrain.pt: is the checkpoint of {said}.*remove"):
        train(first, made, batches(**data), **options)
    assert all(torch.equal(v, before[k]) for k, v in made.state_dict().items())
    assert first.read_bytes() == file
    assert sorted(p.name for p in first.parent.iterdir()) == BOTH


@pytest.mark.parametrize(
    "same",
    [
        lambda: (Net(), batches()),
        lambda: (Net(), batches(num_workers=1, pin_memory=False, prefetch_factor=3)),
        lambda: (nn.DataParallel(Net()), batches()),
        lambda: (Net(), batches(X.clone(), Y.clone())),
    ],
    ids=["made anew", "workers", "wrapped", "copied"],
)
def test_the_same_training_made_in_another_way_goes_on(first, same):
    assert train(first, *same()) == train(first)


def test_a_network_that_was_trained_meanwhile_goes_on(tmp_path):
    """In a notebook: the same objects again after an interruption."""
    network, data = Net(), batches()

    def interrupt(metrics):
        if metrics["epoch"] == 1:
            raise KeyboardInterrupt

    whole = copy.deepcopy(network)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "a.pt", network, data, epochs=3, on_epoch=interrupt)
    assert train(tmp_path / "a.pt", network, data, epochs=3) == train(None, whole, epochs=3)
    for name, value in network.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


# Bits.


@pytest.mark.parametrize("tries", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_no_bit_changes_unseen(first, tmp_path, tries):
    draw, whole, path = random.Random(1), first.read_bytes(), tmp_path / "retrain.pt"
    for _ in range(tries):
        wrong = bytearray(whole)
        kind = draw.choice(["flip", "flip", "cut", "swap", "zeros"])
        a, b = sorted(draw.sample(range(len(whole)), 2))
        if kind == "flip":
            wrong[a] ^= 1 << draw.randrange(8)
        elif kind == "cut":
            del wrong[b:]
        elif kind == "swap":
            wrong[a:] = wrong[b:] + wrong[a:b]
        else:
            wrong[a:b] = bytes(b - a)
        if wrong == whole:
            continue
        path.write_bytes(wrong)
        with pytest.raises(SettingsError, match=r"retrain.pt: (is damaged|has no check).*remove"):
            read_checkpoint(path, {})


def test_a_damaged_file_changes_nothing(first, tmp_path):
    path, network = tmp_path / "retrain.pt", Net()
    wrong = bytearray(first.read_bytes())
    wrong[len(wrong) // 2] ^= 1
    path.write_bytes(wrong)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(SettingsError, match="damaged"):
        train(path, network)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert path.read_bytes() == wrong


def interrupted(path, at=2, **options):
    """A training of three epochs that was interrupted before the end of one."""

    def interrupt(metrics):
        if metrics["epoch"] == at:
            raise KeyboardInterrupt

    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        train(path, epochs=3, on_epoch=interrupt, **options)


def test_after_harm_the_training_goes_on_from_the_epoch_before(tmp_path):
    torch.manual_seed(0)
    expected = train(tmp_path / "whole.pt", epochs=3)
    path, seen = tmp_path / "retrain.pt", []
    interrupted(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(CapabilityWarning, match=r"retrain.pt: .*from the one before, of 1 epoch\."):
        assert train(path, epochs=3, on_epoch=seen.append) == expected
    assert [m["epoch"] for m in seen] == [1, 2]


def test_who_removes_the_file_begins_anew(tmp_path):
    path, seen = tmp_path / "retrain.pt", []
    interrupted(path)
    path.unlink()
    train(path, epochs=3, on_epoch=seen.append)
    assert [m["epoch"] for m in seen] == [0, 1, 2]


def test_the_one_before_is_of_the_same_training(tmp_path):
    path = tmp_path / "retrain.pt"
    interrupted(path)
    path.write_bytes(path.read_bytes()[:-1])
    with (
        pytest.warns(CapabilityWarning, match="from the one before"),
        pytest.raises(SettingsError, match="training with seed=0, not 4"),
    ):
        train(path, epochs=3, seed=4)


def test_a_file_of_another_version_is_refused_by_name(tmp_path, monkeypatch):
    path = tmp_path / "retrain.pt"
    monkeypatch.setattr("mlopt.nas.checkpoint.FORMAT", 9)
    train(path)
    monkeypatch.undo()
    with pytest.raises(SettingsError, match="format 9, and this mlopt reads 3") as refused:
        train(path)
    assert "remove this one" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x04K\x01.", "archive", "own archive"])
def test_what_is_no_checkpoint_is_refused(first, tmp_path, content):
    path = tmp_path / "retrain.pt"
    if content == "archive":  # as torch writes it: without a sum
        torch.save({"settings": {}}, path)
    elif content == "own archive":  # read and written again by somebody else
        torch.save(torch.load(first, weights_only=True), path)
    else:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match="no checksum.*mlopt did not write it.*remove"):
        train(path)


def test_torch_reads_a_checkpoint(first):
    assert len(torch.load(first, weights_only=True)["history"]) == 2


# The file system, and others who write.


def test_no_permission_says_so_and_not_to_remove(first, tmp_path, monkeypatch):
    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(SettingsError, match=r"cannot be read \(Permission denied\)") as error:
            train(first)
    assert "remove" not in str(error.value)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(SettingsError, match=r"cannot be written \(Permission denied\)"):
            train(tmp_path / "new.pt")
    assert [p.name for p in tmp_path.iterdir()] == []


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read.*folder"):
        train(tmp_path)


def test_one_training_at_a_time_has_a_file(tmp_path):
    path, seen = tmp_path / "retrain.pt", []

    def another(metrics):
        with pytest.raises(SettingsError, match="already writes to it"):
            train(path)
        seen.append(metrics)

    assert train(path, on_epoch=another) == seen
    with only_writer(path):
        assert train(path) == seen  # it is over: everyone may read it
    assert sorted(p.name for p in tmp_path.iterdir()) == BOTH


def test_a_finished_training_is_read_where_nothing_can_be_written(first, monkeypatch):
    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    expected = train(first)
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    assert train(first) == expected

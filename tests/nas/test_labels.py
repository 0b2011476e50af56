"""The labels that `evaluate` and `retrain` take, and what they say of others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mlopt._errors import DataError, SettingsError
from mlopt.nas import evaluate, retrain

IMAGES = torch.linspace(-1, 1, 4 * 6).reshape(4, 1, 2, 3)


class Linear(nn.Module):
    """Three logits of an image."""

    def __init__(self, classes=3):
        super().__init__()
        self.layer = nn.Linear(6, classes)
        nn.init.constant_(self.layer.weight, 0.1)

    def forward(self, x):
        return self.layer(x.flatten(1)), None


def trained(network, batches):
    retrain(network, batches, epochs=1, progress=False)


@pytest.mark.parametrize("run", [evaluate, trained])
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.tensor([0, -100, 2, 1]), "the label -100"),  # torch would leave it out of the loss
        (torch.tensor([0, -1, 2, 1]), "the label -1, and labels count the classes from 0"),
        (torch.tensor([0, 1, 3, 1]), "the label 3, but the network has 3 classes"),
        (torch.tensor([0.0, 1, 2, 1]), "labels of torch.float32"),
        (torch.tensor([True, False, True, False]), "labels of torch.bool"),
        (torch.tensor([0, 1]), r"shape \(2,\), and the network gave logits for 4 images"),
        (torch.tensor([[0], [1], [2], [1]]), r"labels of shape \(4, 1\)"),
        (torch.eye(3, dtype=torch.long)[[0, 1, 2, 1]], r"labels of shape \(4, 3\)"),
    ],
)
def test_what_is_no_label_is_refused(run, labels, said):
    with pytest.raises(DataError, match=said):
        run(Linear(), [(IMAGES, labels)])


@pytest.mark.parametrize("run", [evaluate, trained])
def test_an_empty_batch_is_refused(run):
    with pytest.raises(DataError, match="no images"):
        run(Linear(), [(IMAGES[:0], torch.tensor([], dtype=torch.long))])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_every_whole_type(dtype):
    labels, (one, other) = torch.tensor([0, 1, 2, 1]), (Linear(), Linear())
    other.load_state_dict(one.state_dict())
    assert evaluate(one, [(IMAGES, labels)]) == evaluate(one, [(IMAGES, labels.to(dtype))])
    trained(one, [(IMAGES, labels)])
    trained(other, [(IMAGES, labels.to(dtype))])
    assert torch.equal(one.layer.weight, other.layer.weight)


def test_logits_are_a_row_for_each_image():
    network = Linear()
    network.layer = nn.Sequential(network.layer, nn.Unflatten(1, (3, 1)))
    with pytest.raises(SettingsError, match=r"logits of shape \(4, 3, 1\)"):
        evaluate(network, [(IMAGES, torch.tensor([0, 1, 2, 1]))])


@pytest.mark.parametrize("network", [Linear().requires_grad_(False), nn.Flatten()])
def test_a_network_without_a_parameter_to_train_is_refused(network):
    with pytest.raises(SettingsError, match="no parameter to train"):
        trained(network, [(IMAGES, torch.tensor([0, 1, 2, 1]))])

"""Class losses and cutout."""

from __future__ import annotations

import pytest
import torch
from compare import exact, rounding

from mlopt._errors import DataError, SettingsError
from mlopt.nas import ClassLosses, mean_per_class

# Exponentials of three numbers, their sum and quotients, and the mean of these.
SUM = rounding(12)


def test_mean_per_class():
    losses = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    means, present = mean_per_class(losses, torch.tensor([2, 0, 2]), 4)
    assert means.tolist() == [2, 0, 3.5, 0]
    assert present.tolist() == [True, False, True, False]
    assert torch.autograd.grad(means[2], losses)[0].tolist() == [0.5, 0, 0.5]


@pytest.mark.parametrize("normalize", ["none", "mean", "softmax"])
def test_derivatives(normalize):
    weights = ClassLosses(3, normalize=normalize).double()
    weights(torch.rand(3).double(), torch.arange(3))
    weights.eval()
    labels = torch.tensor([0, 2, 0, 2, 2])
    losses = torch.rand(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: weights(x, labels), losses)
    assert torch.autograd.gradgradcheck(lambda x: weights(x**2, labels), losses)


def test_absent_classes():
    weights = ClassLosses(4, momentum=0.25)
    first = weights(torch.tensor([1.0, 3.0]).double(), torch.tensor([0, 1]))
    assert first.tolist() == [1, 3, 2, 2]  # nothing else is known
    losses = torch.tensor([7.0, 9.0], dtype=torch.float64, requires_grad=True)
    second = weights(losses, torch.tensor([1, 2]))
    # class 0 remembered; class 3 unknown: mean of 1, 7 and 9
    assert second[:3].tolist() == [1, 7, 9]
    exact(second[3], 17 / 3, SUM)
    assert torch.autograd.grad(second.sum(), losses)[0].tolist() == [1, 1]
    assert weights.running.tolist() == [1, 4, 9, 0]
    assert weights.seen.tolist() == [True, True, True, False]
    assert not weights.running.requires_grad
    third = weights(torch.tensor([2.0]).double(), torch.tensor([0]))
    assert third.tolist() == [2, 4, 9, 5]


def test_evaluation_mode_remembers_nothing():
    weights = ClassLosses(2).eval()
    weights(torch.tensor([4.0]), torch.tensor([1]))
    assert not weights.seen.any()
    assert set(weights.state_dict()) == {"running", "seen"}


@pytest.mark.parametrize("normalize", ["mean", "softmax"])
def test_normalised_losses_average_to_one_and_keep_order(normalize):
    losses = torch.tensor([1.0, 2, 6], dtype=torch.float64)
    weights = ClassLosses(3, normalize=normalize)(losses, torch.arange(3))
    exact(weights.mean(), 1, SUM)
    assert weights[0] < weights[1] < weights[2]
    zero = ClassLosses(3, normalize=normalize)(torch.zeros(3), torch.arange(3))
    assert zero.isfinite().all()


@pytest.mark.parametrize(
    ("losses", "labels", "message"),
    [
        (torch.ones(2), torch.tensor([0, 3]), "0 to 2.*from 0 to 3"),
        (torch.ones(2), torch.tensor([-1, 2]), "from -1 to 2"),
        (torch.ones(2), torch.tensor([0]), r"\(2,\) and \(1,\)"),
        (torch.ones(0), torch.zeros(0, dtype=torch.long), "at least 1"),
        (torch.ones(2, 1), torch.zeros(2, 1, dtype=torch.long), "vectors"),
    ],
)
def test_bad_data(losses, labels, message):
    with pytest.raises(DataError, match=message):
        ClassLosses(3)(losses, labels)


@pytest.mark.parametrize("kwargs", [{"classes": 0}, {"momentum": 0.0}, {"normalize": "sum"}])
def test_bad_settings(kwargs):
    with pytest.raises(SettingsError):
        ClassLosses(**{"classes": 3, **kwargs})

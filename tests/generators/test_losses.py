"""The losses against their closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from mlopt.generators import discriminator_loss, generator_loss

REAL = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
FAKE = torch.tensor([-0.3, 1.7], dtype=torch.float64, requires_grad=True)


def sigmoid(t: float) -> float:
    return 1 / (1 + math.exp(-t))


def test_discriminator_loss_is_the_cross_entropy() -> None:
    expected = -sum(math.log(sigmoid(t)) for t in REAL.tolist()) / 3
    expected -= sum(math.log(1 - sigmoid(t)) for t in FAKE.tolist()) / 2
    assert discriminator_loss(REAL, FAKE).item() == pytest.approx(expected, rel=1e-12)


def test_generator_loss_does_not_saturate() -> None:
    expected = -sum(math.log(sigmoid(t)) for t in FAKE.tolist()) / 2
    assert generator_loss(FAKE).item() == pytest.approx(expected, rel=1e-12)
    far = torch.tensor([-200.0], requires_grad=True)
    generator_loss(far).backward()
    assert far.grad.item() == -1


def test_at_zero() -> None:
    zero = torch.zeros(4)
    assert discriminator_loss(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert generator_loss(zero).item() == pytest.approx(math.log(2))


def test_derivatives() -> None:
    assert torch.autograd.gradcheck(discriminator_loss, (REAL, FAKE))
    assert torch.autograd.gradgradcheck(discriminator_loss, (REAL, FAKE))
    assert torch.autograd.gradgradcheck(generator_loss, FAKE)


def test_large_logits_stay_finite() -> None:
    far = torch.tensor([-1e4, 1e4])
    assert discriminator_loss(far, far).item() == pytest.approx(1e4)

"""GAN training: the steps, and that digits become recognisable."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from mlopt._errors import DataError, SettingsError
from mlopt.data import load, loader, search_split
from mlopt.generators import (
    DCGANDiscriminator,
    DCGANGenerator,
    discriminator_loss,
    generator_loss,
    sample_grid,
    train_gan,
)


class Shift(nn.Module):
    """A generator of constant images, one number per class."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([0.1, -0.2], dtype=torch.float64))

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        return self.value[labels].view(-1, 1, 1, 1)


class Slope(nn.Module):
    """A discriminator that is linear in the image."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.value * x.flatten() * (1 + labels)


def test_one_step_by_hand() -> None:
    g, d = Shift(), Slope()
    x, y = torch.tensor([0.5, 0.9], dtype=torch.float64).view(2, 1, 1, 1), torch.tensor([0, 1])
    losses = train_gan(g, d, [(x, y)], 1, lr=0.01, discriminator_lr=0.1)
    # Adam's first step is lr * sign(gradient), and the generator meets the new discriminator.
    start_g, start_d = Shift(), Slope()
    loss = discriminator_loss(start_d(x, y), start_d(start_g(y), y))
    loss.backward()
    assert losses["discriminator"] == pytest.approx(loss.item(), rel=1e-12)
    moved = 0.3 - 0.1 * start_d.value.grad.sign().item()
    assert d.value.item() == pytest.approx(moved, abs=1e-6)
    assert losses["generator"] == pytest.approx(generator_loss(d(start_g(y), y)).item(), rel=1e-12)
    assert g.value.tolist() == pytest.approx([0.11, -0.19], abs=1e-6)  # d is positive: upwards


def test_batches_are_gone_through_again() -> None:
    seen = []

    class Watch(Slope):
        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            seen.append(x.flatten()[0].item())
            return super().forward(x, labels)

    label = torch.tensor([0])
    batches = [(torch.full((1, 1, 1, 1), v, dtype=torch.float64), label) for v in (5.0, 6.0)]
    train_gan(Shift(), Watch(), batches, 5)
    assert [v for v in seen if v >= 5] == [5, 6, 5, 6, 5]


def test_together_is_one_call_in_each_step() -> None:
    calls = []

    class Watch(Slope):
        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            calls.append((x.flatten().tolist(), labels.tolist()))
            return super().forward(x, labels)

    batch = (torch.full((1, 1, 1, 1), 5.0, dtype=torch.float64), torch.tensor([1]))
    results = []
    for together in (True, False):
        g, d = Shift(), Watch()
        losses = train_gan(g, d, [batch], 3, together=together)
        results.append((losses, g.value.tolist(), d.value.item()))
    assert calls[0] == ([5.0, -0.2], [1, 1])
    assert len(calls) == 3 * 2 + 3 * (2 + 1)
    assert results[0] == results[1]  # a network without BatchNorm does not notice


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match="batches are empty"):
        train_gan(Shift(), Slope(), [], 1)
    with pytest.raises(SettingsError, match="steps=0"):
        train_gan(Shift(), Slope(), [], 0)


def test_digits_become_recognisable_and_differ() -> None:
    """150 steps, 2 s: a classifier of real digits recognises the class that was asked for."""
    torch.manual_seed(0)
    data = load("digits")
    n = data.normalization
    batches = loader(search_split(data)[0], 64)
    generator = DCGANGenerator(8, 1, 10, z=32, width=32)
    discriminator = DCGANDiscriminator(8, 1, 10, width=32)
    real = [(n.to_generator(x), y) for x, y in batches]
    train_gan(generator, discriminator, real, 150, lr=2e-3, discriminator_lr=4e-3)
    images = sample_grid(generator, 10, 20, seed=0)
    pixels = n.to_generator(n.from_pixels(data.train_images)).flatten(1)
    judge = LogisticRegression(max_iter=300).fit(pixels.numpy(), data.train_labels.numpy())
    asked = torch.arange(10).repeat_interleave(20).numpy()
    assert (judge.predict(images.flatten(1).numpy()) == asked).mean() > 0.8
    spread = images.view(10, 20, -1).std(dim=1).mean()
    real_spread = torch.stack([pixels[data.train_labels == c].std(dim=0) for c in range(10)]).mean()
    assert spread > 0.3 * real_spread  # not one image per class

"""GAN training: the steps, and that digits become recognisable."""

from __future__ import annotations

import math

import pytest
import torch
from compare import exact, near, rounding
from sklearn.linear_model import LogisticRegression
from torch import nn

from mlopt._errors import DataError, NonFiniteError, SettingsError
from mlopt.data import load, loader, search_split
from mlopt.generators import (
    DCGANDiscriminator,
    DCGANGenerator,
    ExponentialAverage,
    discriminator_loss,
    generator_loss,
    sample_grid,
    train_gan,
)

# Two scores each of both kinds, an exponential and a logarithm of each, their means and sum.
LOSS = rounding(20)
ADAM = "Adam adds 1e-8 to the root of the squared gradient, which is above 0.1 here"


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
    exact(losses["discriminator"], loss.item(), LOSS)
    moved = 0.3 - 0.1 * start_d.value.grad.sign().item()
    near(d.value, moved, 1e-7, why=ADAM)
    exact(losses["generator"], generator_loss(d(start_g(y), y)), LOSS)
    near(g.value, [0.11, -0.19], 1e-7, why=ADAM)  # d is positive: upwards


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


BATCH = (torch.tensor([0.5, 0.9], dtype=torch.float64).view(2, 1, 1, 1), torch.tensor([0, 1]))


class Watch(Slope):
    """Counts what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[list[float], list[int]]] = []

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.seen.append((x.flatten().tolist(), labels.tolist()))
        return super().forward(x, labels)


def test_discriminator_steps_take_a_batch_each() -> None:
    d, label = Watch(), torch.tensor([0])
    batches = [(torch.full((1, 1, 1, 1), v).double(), label) for v in (5.0, 6.0, 7.0)]
    train_gan(Shift(), d, batches, 2, d_steps=2)
    reals = [x[0] for x, _ in d.seen if x[0] >= 5]
    assert reals == [5, 6, 7, 5]
    assert len(d.seen) == 2 * (2 * 2 + 1)  # real and generated twice, then the generator's


def test_one_step_with_the_penalty_by_hand() -> None:
    g, d = Shift(), Slope()
    losses = train_gan(
        g, d, [BATCH], 1, loss="wasserstein", gradient_penalty=10.0, lr=0.01, discriminator_lr=0.1
    )
    # D(x, y) = v x (1 + y) has the slopes v and 2 v; v = 0.3 rises: the penalty is 5 ((v - 1)^2 +
    # (2 v - 1)^2) = 3.25 with the derivative -11; the rest is v ((0.1 - 0.4) - (0.5 + 1.8)) / 2.
    exact(losses["penalty"], 3.25, LOSS)
    exact(losses["discriminator"], 3.25 + 0.3 * (-0.3 - 2.3) / 2, LOSS)
    near(d.value, 0.4, 1e-7, why=ADAM)
    near(losses["generator"], -0.4 * (0.1 - 0.4) / 2, 1e-7, why=ADAM)
    near(g.value, [0.11, -0.19], 1e-7, why=ADAM)


def test_hinge_by_hand() -> None:
    losses = train_gan(Shift(), Slope(), [BATCH], 1, loss="hinge", discriminator_lr=1e-9)
    real, fake = [0.15, 0.54], [0.03, -0.12]
    expected = sum(1 - r for r in real) / 2 + sum(1 + f for f in fake) / 2
    exact(losses["discriminator"], expected, LOSS)
    near(losses["generator"], -sum(fake) / 2, 1e-8, why="the discriminator moved by 1e-9 of 0.3")


def test_linear_decay() -> None:
    """A gradient of constant sign: Adam moves by the step size, here 4, 3, 2 and 1 quarters."""
    g = Shift()
    train_gan(
        g, Slope(), [BATCH], 4, loss="wasserstein", lr=0.01, discriminator_lr=1e-9, decay="linear"
    )
    near(g.value, [0.1 + 0.025, -0.2 + 0.025], 1e-7, why=ADAM)


def test_images_of_each_class() -> None:
    class Three(Shift):
        classes = 2

    d = Watch()
    train_gan(Three(), d, [BATCH], 1, per_class=3)
    assert [labels for _, labels in d.seen] == [[0, 1], [0, 1], [0, 0, 0, 1, 1, 1]]


def test_the_average_follows_each_generator_step() -> None:
    g = Shift()
    average = ExponentialAverage(g, decay=0.75)
    places = []

    def log(step: int, losses: dict[str, float]) -> None:
        places.append((step, g.value.tolist(), losses))

    train_gan(g, Slope(), [BATCH], 3, d_steps=2, average=average, on_log=log, log_every=1)
    expected = Shift().value.detach()
    for _, value, _ in places:
        expected = 0.75 * expected + 0.25 * torch.tensor(value, dtype=torch.float64)
    exact(average.module.value, expected, rounding(3 * 4))  # products, sums and 1 - decay, thrice
    assert [step for step, _, _ in places] == [1, 2, 3]
    assert set(places[0][2]) == {"discriminator", "generator"}


def test_log_every_and_at_the_end() -> None:
    steps = []
    train_gan(Shift(), Slope(), [BATCH], 5, on_log=lambda step, _: steps.append(step), log_every=2)
    assert steps == [2, 4, 5]


def test_the_auxiliary_classifier_is_trained_and_teaches() -> None:
    class Auxiliary(Slope):
        conditioning = "auxiliary"

        def judge(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            known = torch.stack([0 * x.flatten(), x.flatten()], dim=1)  # class 1 is bright
            return self(x, y), known

    losses = train_gan(
        Shift(), Auxiliary(), [BATCH], 1, discriminator_lr=1e-9, auxiliary=(2.0, 0.5)
    )
    plain = train_gan(Shift(), Slope(), [BATCH], 1, discriminator_lr=1e-9)

    def softplus(t: float) -> float:
        return math.log1p(math.exp(t))

    of_real = (softplus(0.5) + softplus(-0.9)) / 2  # labels 0 and 1 of 0.5 and 0.9
    of_fake = (softplus(0.1) + softplus(0.2)) / 2
    for name, part in (("discriminator", 2 * of_real), ("generator", 0.5 * of_fake)):
        exact(losses[name] - plain[name], part, LOSS, scale=losses[name] + plain[name])


def test_a_loss_that_is_not_finite_takes_no_step() -> None:
    bad = (torch.full((2, 1, 1, 1), math.nan).double(), BATCH[1])
    g, d = Shift(), Slope()
    with pytest.raises(NonFiniteError, match="discriminator's loss is nan in step 1") as caught:
        train_gan(g, d, [BATCH, bad], 2)
    assert (caught.value.problem, caught.value.step) == ("discriminator", 1)
    assert math.isfinite(d.value.item())
    assert g.value.isfinite().all()


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match="batches are empty"):
        train_gan(Shift(), Slope(), [], 1)
    for name in ("steps", "d_steps", "log_every"):
        with pytest.raises(SettingsError, match=f"{name}=0"):
            train_gan(Shift(), Slope(), [BATCH], **{"steps": 1, name: 0})
    for name, value in (("loss", "hing"), ("decay", "cosine")):
        with pytest.raises(SettingsError, match=f"{name}='{value}'"):
            train_gan(Shift(), Slope(), [BATCH], 1, **{name: value})
    with pytest.raises(SettingsError, match="per_class=2 .*needs a generator with .*`classes`"):
        train_gan(Shift(), Slope(), [BATCH], 1, per_class=2)
    coupled = DCGANDiscriminator(8, 1, 2, width=2)
    for d, more in ((coupled, {}), (Slope(), {"together": True}), (Slope(), {})):
        penalty = 10.0 if more or d is coupled else -1.0
        with pytest.raises(SettingsError, match=f"gradient_penalty={penalty}.*"):
            train_gan(Shift(), d, [BATCH], 1, gradient_penalty=penalty, **more)


def test_digits_become_recognisable_and_differ() -> None:
    """120 steps: a classifier of real digits recognises the class that was asked for."""
    torch.manual_seed(0)
    data = load("digits")
    n = data.normalization
    batches = loader(search_split(data)[0], 32)
    generator = DCGANGenerator(8, 1, 10, z=32, width=16)
    discriminator = DCGANDiscriminator(8, 1, 10, width=16)
    real = [(n.to_generator(x), y) for x, y in batches]
    train_gan(generator, discriminator, real, 120, lr=3e-3, discriminator_lr=6e-3)
    images = sample_grid(generator, 10, 20, seed=0)
    pixels = n.to_generator(n.from_pixels(data.train_images)).flatten(1)
    judge = LogisticRegression(max_iter=300).fit(pixels.numpy(), data.train_labels.numpy())
    asked = torch.arange(10).repeat_interleave(20).numpy()
    assert (judge.predict(images.flatten(1).numpy()) == asked).mean() > 0.8
    spread = images.view(10, 20, -1).std(dim=1).mean()
    real_spread = torch.stack([pixels[data.train_labels == c].std(dim=0) for c in range(10)]).mean()
    assert spread > 0.3 * real_spread  # not one image per class

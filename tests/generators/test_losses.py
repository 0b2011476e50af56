"""The losses and the gradient penalty against their closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from compare import exact, rounding

from mlopt._errors import DataError
from mlopt.generators import (
    LOSSES,
    DCGANDiscriminator,
    SharedDiscriminator,
    couples_samples,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    hinge_discriminator_loss,
    hinge_generator_loss,
    make_gan,
    wasserstein_discriminator_loss,
    wasserstein_generator_loss,
)

# Of five scores an exponential, a logarithm and a sign each, their sums and means, and both added.
LOSS = rounding(20)
REAL = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
FAKE = torch.tensor([-0.3, 1.7], dtype=torch.float64, requires_grad=True)


def sigmoid(t: float) -> float:
    return 1 / (1 + math.exp(-t))


def test_discriminator_loss_is_the_cross_entropy() -> None:
    expected = -sum(math.log(sigmoid(t)) for t in REAL.tolist()) / 3
    expected -= sum(math.log(1 - sigmoid(t)) for t in FAKE.tolist()) / 2
    exact(discriminator_loss(REAL, FAKE), expected, LOSS)


def test_generator_loss_does_not_saturate() -> None:
    expected = -sum(math.log(sigmoid(t)) for t in FAKE.tolist()) / 2
    exact(generator_loss(FAKE), expected, LOSS)
    far = torch.tensor([-200.0], requires_grad=True)
    generator_loss(far).backward()
    assert far.grad.item() == -1


def test_at_zero() -> None:
    zero = torch.zeros(4, dtype=torch.float64)
    exact(discriminator_loss(zero, zero), 2 * math.log(2), LOSS)
    exact(generator_loss(zero), math.log(2), LOSS)


def test_derivatives() -> None:
    assert torch.autograd.gradcheck(discriminator_loss, (REAL, FAKE))
    assert torch.autograd.gradgradcheck(discriminator_loss, (REAL, FAKE))
    assert torch.autograd.gradgradcheck(generator_loss, FAKE)


def test_large_logits_stay_finite() -> None:
    far = torch.tensor([-1e4, 1e4])
    assert discriminator_loss(far, far).item() == 1e4


def test_hinge() -> None:
    # relu(1 - D) of 2, -1, 0.5: 0, 2, 0.5; relu(1 + D) of -0.3, 1.7: 0.7, 2.7
    exact(hinge_discriminator_loss(REAL, FAKE), 2.5 / 3 + 3.4 / 2, LOSS)
    exact(hinge_generator_loss(FAKE), -0.7, LOSS)
    by_real, by_fake = torch.autograd.grad(hinge_discriminator_loss(REAL, FAKE), (REAL, FAKE))
    exact(by_real, [0, -1 / 3, -1 / 3], LOSS)
    assert by_fake.tolist() == [1 / 2, 1 / 2]


def test_wasserstein() -> None:
    exact(wasserstein_discriminator_loss(REAL, FAKE), 0.7 - 0.5, LOSS, scale=0.7 + 0.5)
    exact(wasserstein_generator_loss(FAKE), -0.7, LOSS)


def test_losses_by_name() -> None:
    assert LOSSES["non-saturating"] == (discriminator_loss, generator_loss)
    assert LOSSES["hinge"] == (hinge_discriminator_loss, hinge_generator_loss)
    assert LOSSES["wasserstein"] == (wasserstein_discriminator_loss, wasserstein_generator_loss)
    assert len(LOSSES) == 3


# Of up to 18 pixels: their places, slopes, squares and the sum of these, a root; the distance to
# one, in which most of it may cancel, squared, and a mean over up to five images.
PENALTY = rounding(2 * 18 + 10 + 5, condition=10)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_penalty_of_a_linear_critic() -> None:
    """Its slope is the same everywhere: |w| over all pixels and channels."""
    w = draw(2, 3, 3)
    found = gradient_penalty(lambda x: (x * w).sum((1, 2, 3)), draw(4, 2, 3, 3), draw(4, 2, 3, 3))
    exact(found, (w.square().sum().sqrt().item() - 1) ** 2, PENALTY)


def test_penalty_sample_by_sample() -> None:
    """D(x, y) = y <a, x^2> / 2 has the slope y a x, at a place of each sample's own."""
    real, fake, a = draw(3, 1, 2, 2), draw(3, 1, 2, 2, seed=1), draw(1, 2, 2, seed=2)
    y, u = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([0.0, 0.25, 0.9]).double()

    def critic(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return y * (a * x.square()).sum((1, 2, 3)) / 2

    expected = 0.0
    for i in range(3):
        pixels = zip(real[i].flatten(), fake[i].flatten(), strict=True)
        place = [r + u[i] * (f - r) for r, f in pixels]
        slope = [y[i] * k * x for k, x in zip(a.flatten(), place, strict=True)]
        expected += (math.sqrt(sum(s.item() ** 2 for s in slope)) - 1) ** 2 / 3
    exact(gradient_penalty(critic, real, fake, y, u=u), expected, PENALTY)
    with torch.no_grad():
        found = gradient_penalty(critic, real, fake, y, u=u)
    exact(found, expected, PENALTY)
    assert not found.requires_grad


def test_penalty_draws_one_place_for_each_sample() -> None:
    real, fake = draw(5, 1, 2, 2), draw(5, 1, 2, 2, seed=1)
    seen = []

    def critic(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach())
        return x.square().sum((1, 2, 3))

    torch.manual_seed(3)
    drawn = gradient_penalty(critic, real, fake)
    way, gone = (fake - real).flatten(1), (seen[0] - real).flatten(1)
    u = (gone * way).sum(1) / way.square().sum(1)
    # Of each pixel a difference and a product, two sums over four, a quotient, and the place.
    places = real + u.view(-1, 1, 1, 1) * (fake - real)
    exact(seen[0], places, rounding(15))
    assert len(u.unique()) == 5
    assert u.min() >= 0
    assert u.max() <= 1
    exact(drawn, gradient_penalty(critic, real, fake, u=u), PENALTY)


def test_penalty_derivatives() -> None:
    """By the critic's weights and by both kinds of images, of first and second order."""
    u = torch.tensor([0.2, 0.7]).double()

    def penalty(
        w: torch.Tensor, v: torch.Tensor, real: torch.Tensor, fake: torch.Tensor
    ) -> torch.Tensor:
        return gradient_penalty(lambda x: torch.tanh(x.flatten(1) @ w) @ v, real, fake, u=u)

    points = [draw(4, 3), draw(3, seed=1), draw(2, 1, 2, 2, seed=2), draw(2, 1, 2, 2, seed=3)]
    points = [point.requires_grad_() for point in points]
    assert torch.autograd.gradcheck(penalty, points)
    assert torch.autograd.gradgradcheck(penalty, points)


def test_penalty_at_slope_zero() -> None:
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    x = torch.ones(2, 3, dtype=torch.float64)
    found = gradient_penalty(lambda x: (x @ w) ** 2, x, x)
    assert found.item() == 1
    (gradient,) = torch.autograd.grad(found, w)
    assert gradient.isfinite().all()


def test_penalty_shapes_that_are_refused() -> None:
    with pytest.raises(DataError, match=r"gradient_penalty: real .*\(4, 1\) .*\(3, 1\)"):
        gradient_penalty(lambda x: x.sum(1), draw(4, 1), draw(3, 1))
    with pytest.raises(DataError, match=r"u has shape \(4, 1\); for 4 images give \(4,\)"):
        gradient_penalty(lambda x: x.sum(1), draw(4, 1), draw(4, 1), u=draw(4, 1))


def test_which_critics_couple_samples() -> None:
    class Trunk(torch.nn.Module):
        out_features = 2

        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(2, affine=False)

        def features(self, x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
            return self.norm(x.flatten(1)[:, :2])

    assert couples_samples(DCGANDiscriminator(8, 1, 2, width=2))
    assert couples_samples(SharedDiscriminator(Trunk(), 2))
    for name in ("wgan-gp", "wgan-gp-conv", "biggan"):
        assert not couples_samples(make_gan(name, 8, 1, 2, width=2)[1])

"""Plain training of a GAN, outside any graph: for tuning and for pretraining."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from mlopt._errors import DataError
from mlopt.generators._dcgan import check_positive
from mlopt.generators.losses import discriminator_loss, generator_loss

__all__ = ["train_gan"]


def train_gan(
    generator: nn.Module,
    discriminator: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    steps: int,
    *,
    lr: float = 2e-4,
    discriminator_lr: float | None = None,
    betas: tuple[float, float] = (0.5, 0.999),
    together: bool = False,
) -> dict[str, float]:
    """Alternate one discriminator and one generator step, each with Adam, on the standard loss.

    Generated images have the labels of the real ones of the same batch. Both modules are trained in
    place, in the mode that they are in, on the device where they and the batches are; noise is
    drawn from torch's global generator.

    Args:
        generator: called with labels (B,), gives images in the range that the discriminator reads.
        discriminator: called with images and labels, gives logits (B,).
        batches: real images and labels, gone through again and again.
        steps: steps of each network.
        lr: step size of the generator's Adam.
        discriminator_lr: step size of the discriminator's Adam; by default `lr`.
        betas: of both.
        together: whether the discriminator gets real and generated images as one batch, as
            `SharedDiscriminator` needs it, instead of in two calls.

    Returns:
        The last step's losses, `discriminator` and `generator`.

    Raises:
        DataError: there are no batches.
        SettingsError: `steps` is smaller than 1.
    """
    check_positive("train_gan", steps=steps)
    g_optimizer = Adam(generator.parameters(), lr, betas)
    d_lr = lr if discriminator_lr is None else discriminator_lr
    d_optimizer = Adam(discriminator.parameters(), d_lr, betas)
    stream = _endless(batches)
    losses: dict[str, Tensor] = {}
    for _ in range(steps):
        real, labels = next(stream)[:2]
        fake = generator(labels)
        if together:
            real_logits, fake_logits = _pair(discriminator, real, fake.detach(), labels)
        else:
            real_logits = discriminator(real, labels)
            fake_logits = discriminator(fake.detach(), labels)
        loss = discriminator_loss(real_logits, fake_logits)
        d_optimizer.zero_grad()
        loss.backward()
        d_optimizer.step()
        losses["discriminator"] = loss.detach()
        fake = generator(labels)
        if together:
            fake_logits = _pair(discriminator, real, fake, labels)[1]
        else:
            fake_logits = discriminator(fake, labels)
        loss = generator_loss(fake_logits)
        g_optimizer.zero_grad()
        loss.backward()
        g_optimizer.step()
        losses["generator"] = loss.detach()
    return {name: float(value) for name, value in losses.items()}


def _pair(d: nn.Module, real: Tensor, fake: Tensor, labels: Tensor) -> Sequence[Tensor]:
    return d(torch.cat([real, fake]), torch.cat([labels, labels])).chunk(2)


def _endless(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        batch = None
        for batch in batches:
            yield batch
        if batch is None:
            raise DataError("train_gan: the batches are empty; give at least one.")

"""The GAN of LFM-CW's stage I: its networks, its images and its optimizers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.optim.lr_scheduler import CosineAnnealingLR

import mlopt
from mlopt.data import ImageData
from mlopt.generators import (
    GANS,
    ExponentialAverage,
    SharedDiscriminator,
    make_gan,
)
from mlopt.nas import SearchSpace
from spaces import supernet
from support.settings import Settings


def make_players(space: SearchSpace, data: ImageData, s: Settings) -> tuple[nn.Module, nn.Module]:
    """The generator and the discriminator, which is the search network if the settings say so.

    Raises:
        SettingsError: the family's loss needs a discriminator whose samples do not see each other.
    """
    penalty = GANS[s.generator].gradient_penalty
    shared = s.discriminator == "shared" or (s.discriminator == "auto" and not penalty)
    if shared and penalty:
        raise mlopt.SettingsError(
            f"--generator {s.generator} --discriminator shared: the gradient penalty is one slope "
            "for each sample, and the BatchNorm of a search network makes each score depend on the "
            "whole batch. Use --discriminator own, or another generator."
        )
    options = {"z": s.noise, "width": s.generator_width}
    generator, own = make_gan(
        s.generator,
        s.generator_size or data.image_size,
        data.channels,
        data.classes,
        **{k: v for k, v in options.items() if v},
    )
    if not shared:
        return generator, own
    trunk = supernet(space, data, s)
    return generator, SharedDiscriminator(trunk, data.classes)


def make_average(generator: nn.Module, s: Settings) -> ExponentialAverage | None:
    """The running average of the generator, if it is asked for; it begins when the family's does.

    W2 then learns from the average's images, as samplers of GANs usually do. The average is a
    constant of a step, so no hypergradient passes through the generator's look-ahead: A is judged
    by what W2 makes of the images, not by what A does to them.
    """
    return ExponentialAverage(generator, s.ema, GANS[s.generator].ema_start) if s.ema else None


@dataclass(frozen=True)
class Pixels:
    """Between the generator's images, in [-1, 1] and of its size, and those that networks read."""

    data: ImageData
    size: int

    def drawn(self, images: Tensor) -> Tensor:
        """Generated images as the discriminator reads them, of the generator's size."""
        return self.data.normalization.from_generator(images)

    def real(self, images: Tensor) -> Tensor:
        """Real images as the discriminator reads them: reduced to the generator's size."""
        return images if self._equal() else interpolate(images, self.size, mode="area")

    def synthetic(self, images: Tensor) -> Tensor:
        """Generated images as the classifiers read them: enlarged to the data's size."""
        drawn = self.drawn(images)
        if self._equal():
            return drawn
        return interpolate(drawn, self.data.image_size, mode="bilinear", align_corners=False)

    def _equal(self) -> bool:
        return self.size in (0, self.data.image_size)


def fresh(loader: Any) -> mlopt.Stream:
    """The batches of a loader in passes of their own."""
    return mlopt.Stream(copy.copy(loader))


def gan_adam(variable: mlopt.Variable, s: Settings) -> dict[str, Any]:
    """Optimizer and scheduler of a GAN's two players: Adam, cosine over the whole run."""
    beta1, beta2 = GANS[s.generator].betas
    optimizer = torch.optim.Adam(
        variable.parameters(), s.gan_lr, betas=(beta1 if s.gan_beta1 < 0 else s.gan_beta1, beta2)
    )
    epochs = s.generator_epochs + s.pretrain + s.epochs
    scheduler = CosineAnnealingLR(optimizer, epochs, eta_min=min(s.gan_min_lr, s.gan_lr))
    return {"optimizer": optimizer, "scheduler": scheduler}

"""The GAN of LFM-CW's stage I: its two networks, and the generator's average."""

from __future__ import annotations

from torch import nn

import mlopt
from mlopt.data import ImageData
from mlopt.generators import GANS, ExponentialAverage, SharedDiscriminator, make_gan
from mlopt.nas import SearchSpace

from ..settings import Settings
from .formats import supernet


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

"""GANs by name: the networks of a family, and what it was published to be trained with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from mlopt._arguments import (
    check_fields,
    checked,
    from_one,
    from_zero,
    in_body,
    one_of,
    positive,
    within,
)
from mlopt._errors import SettingsError
from mlopt.generators.biggan_discriminator import BigGANDiscriminator
from mlopt.generators.biggan_generator import BigGANGenerator
from mlopt.generators.dcgan_discriminator import DCGANDiscriminator
from mlopt.generators.dcgan_generator import DCGANGenerator
from mlopt.generators.losses import LOSSES
from mlopt.generators.training import DECAYS
from mlopt.generators.wgan_gp_conv import WGANConvCritic, WGANConvGenerator
from mlopt.generators.wgan_gp_residual import WGANResidualCritic, WGANResidualGenerator

__all__ = ["GANS", "GANFamily", "make_gan"]


@dataclass(frozen=True)
class GANFamily:
    """A kind of GAN: its two networks, and the settings that it was published with.

    Args:
        generator: makes the generator from image size, channels, classes and its options.
        discriminator: makes the discriminator likewise.
        loss: a name of `LOSSES`.
        lr: step size of both networks' Adam.
        betas: of both.
        decay: of the step sizes, `none` or `linear`.
        d_steps: discriminator steps for each generator step.
        gradient_penalty: factor of the gradient penalty; 0 for none.
        ema: decay of the generator's running average; 0 for none.
        ema_start: steps before averaging begins.

    Raises:
        SettingsError: a setting is not what it must be.
    """

    generator: Callable[..., nn.Module]
    discriminator: Callable[..., nn.Module]
    loss: str
    lr: float
    betas: tuple[float, float]
    decay: str = "none"
    d_steps: int = 1
    gradient_penalty: float = 0.0
    ema: float = 0.0
    ema_start: int = 0

    def __post_init__(self) -> None:
        check_fields(
            self,
            SettingsError,
            loss=one_of(LOSSES),
            lr=positive,
            betas=within("[0, 1)"),
            decay=one_of(DECAYS),
            d_steps=from_one,
            gradient_penalty=from_zero,
            ema=within("[0, 1)"),
            ema_start=from_zero,
        )

    def training(self) -> dict[str, Any]:
        """The arguments of `train_gan` that the family decides."""
        names = ("loss", "lr", "betas", "decay", "d_steps", "gradient_penalty")
        return {name: getattr(self, name) for name in names}


#: The families by name. References: in the networks. DCGAN: section 4 of its paper; WGAN-GP: the
#: published code for CIFAR-10, residual and convolutional; BigGAN: the authors' CIFAR-10 script.
GANS: dict[str, GANFamily] = {
    "dcgan": GANFamily(
        DCGANGenerator, DCGANDiscriminator, "non-saturating", lr=2e-4, betas=(0.5, 0.999)
    ),
    "wgan-gp": GANFamily(
        WGANResidualGenerator,
        WGANResidualCritic,
        "wasserstein",
        lr=2e-4,
        betas=(0.0, 0.9),
        decay="linear",
        d_steps=5,
        gradient_penalty=10.0,
    ),
    "wgan-gp-conv": GANFamily(
        WGANConvGenerator,
        WGANConvCritic,
        "wasserstein",
        lr=1e-4,
        betas=(0.5, 0.9),
        d_steps=5,
        gradient_penalty=10.0,
    ),
    "biggan": GANFamily(
        BigGANGenerator,
        BigGANDiscriminator,
        "hinge",
        lr=2e-4,
        betas=(0.0, 0.999),
        d_steps=4,
        ema=0.9999,
        ema_start=1000,
    ),
}


@checked(SettingsError, name=in_body, channels=from_one, classes=from_one)
def make_gan(
    name: str, image_size: int, channels: int, classes: int, **options: Any
) -> tuple[nn.Module, nn.Module]:
    """The generator and the discriminator of a family.

    Each option goes to the network that has an argument of this name, to both if both have: `width`
    to both, `z` to the generator. Options that are left out are the family's own.

    Args:
        name: a name of `GANS`.
        image_size: side of the images.
        channels: channels of the images.
        classes: number of classes.
        **options: of the two networks, see their classes.

    Returns:
        The generator, called with labels (B,), and the discriminator, called with images and
        labels.

    Raises:
        SettingsError: the name is unknown, neither network has such an option, or a network refuses
            a value.

    Examples:
        >>> import torch
        >>> generator, critic = make_gan("wgan-gp", 8, channels=1, classes=10, width=4)
        >>> images = generator(torch.arange(10))
        >>> critic(images, torch.arange(10)).shape
        torch.Size([10])
    """
    if not isinstance(name, str) or name not in GANS:
        raise SettingsError(
            f"make_gan(name={name!r}): there is no family {name!r}; give one of {', '.join(GANS)}."
        )
    family, known = GANS[name], {"image_size", "channels", "classes"}
    networks, used = [], set()
    for make in (family.generator, family.discriminator):
        accepted = set(inspect.signature(make).parameters) - known
        chosen = {k: v for k, v in options.items() if k in accepted}
        used |= accepted
        networks.append((make, chosen))
    unknown = [option for option in options if option not in used]
    if unknown:
        raise SettingsError(
            f"make_gan: {name} has no option {unknown[0]!r}; its options are "
            f"{', '.join(sorted(used))}."
        )
    generator, discriminator = (
        make(image_size, channels, classes, **chosen) for make, chosen in networks
    )
    return generator, discriminator

"""WGAN-GP's convolutional pair: a conditional generator and critic."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from mlopt._arguments import checked, from_one, one_of
from mlopt._errors import SettingsError
from mlopt.generators._dcgan import (
    DOWN_STAGES,
    STAGES,
    check_map,
    stage,
)
from mlopt.generators._generator import ConditionalGenerator
from mlopt.generators._wgan_gp import CONDITIONINGS, Critic, CriticHead, init_he
from mlopt.generators.conditional_batch_norm import ConditionalBatchNorm

__all__ = ["WGANConvCritic", "WGANConvGenerator"]


class WGANConvGenerator(ConditionalGenerator):
    """5x5 transposed convolutions from noise to an image with values in [-1, 1], given a class.

        image = tanh(up(... ReLU(cBN(up(ReLU(cBN(linear(z)), label)), label))))),   z ~ N(0, 1)

    `linear` makes the first map, 4x4 (7x7 for 28x28 images), and its conditional BatchNorm has a
    gain and an offset for every number of it; every other one, for every channel. Each `up` doubles
    the side. Widths halve down to `width`, as in `DCGANGenerator`.

    The published network has no classes; the conditional BatchNorm is the usual addition. With
    `classes=1` and 32x32 colour images this is the published network.

    Args:
        image_size: side of the images: 8, 16, 28, 32, 64 or 128.
        channels: channels of the images.
        classes: number of classes.
        z: numbers of noise per image.
        width: channels of the last hidden stage.

    Raises:
        SettingsError: `image_size` is not supported, or another setting is smaller than 1.

    Reference: Gulrajani et al., "Improved training of Wasserstein GANs", 2017, and the network for
    CIFAR-10 in its published code.
    """

    @checked(SettingsError, channels=from_one, classes=from_one, z=from_one, width=from_one)
    def __init__(
        self, image_size: int, channels: int, classes: int, z: int = 128, width: int = 128
    ) -> None:
        super().__init__()
        side, doublings = stage(image_size, STAGES, "WGANConvGenerator")
        self.image_size, self.channels, self.classes, self.z = image_size, channels, classes, z
        self.side = side
        widths = [width * 2**k for k in reversed(range(doublings))]
        first = widths[0] * side**2
        self.linear = nn.Linear(z, first)
        self.norms = nn.ModuleList(
            ConditionalBatchNorm(c, classes=classes) for c in (first, *widths[1:])
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 5, stride=2, padding=2, output_padding=1)
            for before, after in zip(widths, (*widths[1:], channels), strict=True)
        )
        init_he(self)

    def _draw(self, labels: Tensor, z: Tensor) -> Tensor:
        x = self.linear(z)[:, :, None, None]
        for norm, up in zip(self.norms, self.ups, strict=True):
            x = torch.relu(norm(x, labels))
            if x.shape[-1] == 1:  # the numbers of the first map, normalised one by one
                x = x.view(len(x), -1, self.side, self.side)
            x = up(x)
        return torch.tanh(x)

    def _like(self) -> Tensor:
        return self.linear.weight


class WGANConvCritic(Critic):
    """5x5 convolutions of stride 2 with LeakyReLU(.2), without BatchNorm, and a linear score.

        score(x, y) = linear(h(x)) + <embedding(y), h(x)>      conditioning="projection"
        score(x, y) = linear(h(x))                             conditioning="auxiliary"

    h is the last feature map, flattened: 4x4 (7x7 for 28x28 images, 2x2 for 8x8). Widths double
    from `width`. The auxiliary form reads no label; it has a classifier beside the score, see
    `judge`, whose loss makes the generator draw the classes. No operation couples the samples of a
    batch, so `gradient_penalty` is what it says.

    The published network has no classes: it is the auxiliary form without its classifier.

    Args:
        image_size: side of the images: 8, 16, 28, 32, 64 or 128.
        channels: channels of the images.
        classes: number of classes.
        width: channels of the first convolution.
        conditioning: `projection` or `auxiliary`.

    Raises:
        SettingsError: `image_size` or `conditioning` is not supported, or another setting is
            smaller than 1.

    Reference: as in `WGANConvGenerator`; projection: Miyato, Koyama, "cGANs with projection
    discriminator", 2018; auxiliary classifier: Odena, Olah, Shlens, "Conditional image synthesis
    with auxiliary classifier GANs", 2017.
    """

    @checked(
        SettingsError,
        channels=from_one,
        classes=from_one,
        width=from_one,
        conditioning=one_of(CONDITIONINGS),
    )
    def __init__(
        self,
        image_size: int,
        channels: int,
        classes: int,
        width: int = 128,
        conditioning: str = "projection",
    ) -> None:
        super().__init__()
        side, count = stage(image_size, DOWN_STAGES, "WGANConvCritic")
        self.image_size, self.channels, self.classes = image_size, channels, classes
        self.conditioning = conditioning
        widths = [channels, *(width * 2**k for k in range(count))]
        self.downs = nn.ModuleList(
            nn.Conv2d(before, after, 5, stride=2, padding=2)
            for before, after in zip(widths, widths[1:], strict=False)
        )
        self.head = CriticHead(widths[-1] * side**2, classes, conditioning, "WGANConvCritic")
        init_he(self)

    def features(self, x: Tensor) -> Tensor:
        """What the head reads: (B, F)."""
        check_map(x, self.channels, "WGANConvCritic")
        for down in self.downs:
            x = leaky_relu(down(x), 0.2)
        return x.flatten(1)

"""WGAN-GP's residual pair: a conditional generator and critic."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from mlopt._arguments import checked, from_one, one_of
from mlopt._batch_norm import BatchNorm2d
from mlopt._errors import SettingsError
from mlopt.generators._dcgan import (
    STAGES,
    check_map,
    stage,
)
from mlopt.generators._generator import ConditionalGenerator
from mlopt.generators._wgan_gp import CONDITIONINGS, Critic, CriticHead, init_he
from mlopt.generators.conditional_batch_norm import ConditionalBatchNorm

__all__ = ["WGANResidualCritic", "WGANResidualGenerator"]


class _UpBlock(nn.Module):
    """x -> conv(ReLU(cBN(conv(up(ReLU(cBN(x))))))) + conv1x1(up(x)), twice the side."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm1 = ConditionalBatchNorm(width, classes=classes)
        self.norm2 = ConditionalBatchNorm(width, classes=classes)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        h = self.conv1(interpolate(torch.relu(self.norm1(x, labels)), scale_factor=2))
        h = self.conv2(torch.relu(self.norm2(h, labels)))
        # A 1x1 convolution and a repetition commute; the smaller map is convolved.
        return h + interpolate(self.shortcut(x), scale_factor=2)


class _FirstBlock(nn.Module):
    """x -> pool(conv(ReLU(conv(x)))) + conv1x1(pool(x)): no ReLU before the pixels."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Conv2d(channels, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(torch.relu(self.conv1(x)))
        return avg_pool2d(h, 2) + self.shortcut(avg_pool2d(x, 2))


class _Block(nn.Module):
    """x -> conv(ReLU(conv(ReLU(x)))) + x; `down` halves the side of both terms, x after a 1x1."""

    def __init__(self, width: int, down: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Conv2d(width, width, 1) if down else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(torch.relu(self.conv1(torch.relu(x))))
        if self.shortcut is None:
            return h + x
        return avg_pool2d(h, 2) + self.shortcut(avg_pool2d(x, 2))  # a 1x1 and a mean commute


class WGANResidualGenerator(ConditionalGenerator):
    """Residual blocks from noise to an image with values in [-1, 1], given a class.

        image = tanh(conv(ReLU(BN(up(... up(linear(z), label) ..., label))))),     z ~ N(0, 1)

    `linear` makes a 4x4 map (7x7 for 28x28 images) with `width` channels, the width of all blocks.
    Each `up` is a residual block that doubles the side, with conditional BatchNorm: a gain and an
    offset for each class. 3 blocks make 32x32 images, as published; other sizes have as many as
    they need.

    Args:
        image_size: side of the images: 8, 16, 28, 32, 64 or 128.
        channels: channels of the images.
        classes: number of classes.
        z: numbers of noise per image.
        width: channels of the blocks.

    Raises:
        SettingsError: `image_size` is not supported, or another setting is smaller than 1.

    Reference: Gulrajani et al., "Improved training of Wasserstein GANs", 2017, section 5.3 and
    appendix F.
    """

    @checked(SettingsError, channels=from_one, classes=from_one, z=from_one, width=from_one)
    def __init__(
        self, image_size: int, channels: int, classes: int, z: int = 128, width: int = 128
    ) -> None:
        super().__init__()
        self.side, doublings = stage(image_size, STAGES, "WGANResidualGenerator")
        self.image_size, self.channels, self.classes, self.z = image_size, channels, classes, z
        self.linear = nn.Linear(z, width * self.side**2)
        self.ups = nn.ModuleList(_UpBlock(width, classes) for _ in range(doublings))
        self.norm = BatchNorm2d(width)
        self.conv = nn.Conv2d(width, channels, 3, padding=1)
        init_he(self)

    def _draw(self, labels: Tensor, z: Tensor) -> Tensor:
        x = self.linear(z).view(len(labels), -1, self.side, self.side)
        for up in self.ups:
            x = up(x, labels)
        return torch.tanh(self.conv(torch.relu(self.norm(x))))

    def _like(self) -> Tensor:
        return self.linear.weight


class WGANResidualCritic(Critic):
    """Residual blocks without BatchNorm, the mean over space, and a linear score.

        score(x, y) = linear(h(x)) + <embedding(y), h(x)>      conditioning="projection"
        score(x, y) = linear(h(x))                             conditioning="auxiliary"

    h is the mean over space of ReLU of the last block. Blocks halve the side down to 8 (7 for 28x28
    images, 4 for 8x8), and two more keep it. The auxiliary form reads no label; it has a classifier
    beside the score, see `judge`: with it this is the published network. No operation couples the
    samples of a batch, so `gradient_penalty` is what it says.

    Args:
        image_size: side of the images: 8, 16, 28, 32, 64 or 128.
        channels: channels of the images.
        classes: number of classes.
        width: channels of the blocks.
        conditioning: `projection` or `auxiliary`.

    Raises:
        SettingsError: `image_size` or `conditioning` is not supported, or another setting is
            smaller than 1.

    Reference: as in `WGANResidualGenerator`; projection and auxiliary classifier: as in
    `WGANConvCritic`.
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
        side, doublings = stage(image_size, STAGES, "WGANResidualCritic")
        self.image_size, self.channels, self.classes = image_size, channels, classes
        self.conditioning = conditioning
        downs = max(1, doublings - 1) if side == 4 else doublings
        self.blocks = nn.Sequential(
            _FirstBlock(channels, width),
            *(_Block(width, down=True) for _ in range(downs - 1)),
            _Block(width, down=False),
            _Block(width, down=False),
        )
        self.head = CriticHead(width, classes, conditioning, "WGANResidualCritic")
        init_he(self)

    def features(self, x: Tensor) -> Tensor:
        """What the head reads: (B, F)."""
        check_map(x, self.channels, "WGANResidualCritic")
        return torch.relu(self.blocks(x)).mean(dim=(2, 3))

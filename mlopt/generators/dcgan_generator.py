"""The conditional DCGAN generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mlopt._arguments import checked, from_one
from mlopt._batch_norm import BatchNorm2d
from mlopt._errors import SettingsError
from mlopt.generators._dcgan import (
    STAGES,
    init_dcgan,
    stage,
)
from mlopt.generators._generator import ConditionalGenerator

__all__ = ["DCGANGenerator"]


class DCGANGenerator(ConditionalGenerator):
    """Transposed convolutions from noise and a class to an image with values in [-1, 1].

        image = tanh(up(... ReLU(BN(up(ReLU(BN(start([z, embedding(label)])))))))),   z ~ N(0, 1)

    `start` is a transposed convolution from 1x1 to 4x4 (7x7 for 28x28 images); each `up` is one of
    kernel 4 and stride 2 that doubles the side. The widest stage comes first and widths halve down
    to `width`: 1 hidden stage for 8x8 images, 2 for 16x16 and 28x28, 3 for 32x32, 4 for 64x64 (the
    published network), 5 for 128x128.

    Args:
        image_size: side of the images: 8, 16, 28, 32, 64 or 128.
        channels: channels of the images.
        classes: number of classes.
        z: numbers of noise per image.
        width: channels of the last hidden stage.
        embedding: numbers that describe a class; they are appended to the noise.

    Raises:
        SettingsError: `image_size` is not supported, or another setting is smaller than 1.

    Reference: Radford, Metz, Chintala, "Unsupervised representation learning with deep
    convolutional generative adversarial networks", 2016. DCGAN itself has no classes; the embedding
    is the usual addition.
    """

    @checked(
        SettingsError,
        channels=from_one,
        classes=from_one,
        z=from_one,
        width=from_one,
        embedding=from_one,
    )
    def __init__(
        self,
        image_size: int,
        channels: int,
        classes: int,
        z: int = 100,
        width: int = 64,
        embedding: int = 32,
    ) -> None:
        super().__init__()
        side, doublings = stage(image_size, STAGES, "DCGANGenerator")
        self.image_size, self.channels, self.classes, self.z = image_size, channels, classes, z
        widths = [width * 2**k for k in reversed(range(doublings))]
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(z + embedding, widths[0], side, bias=False),
            BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [
                nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False),
                BatchNorm2d(after),
                nn.ReLU(),
            ]
        layers += [nn.ConvTranspose2d(widths[-1], channels, 4, stride=2, padding=1), nn.Tanh()]
        self.embedding = nn.Embedding(classes, embedding)
        self.layers = nn.Sequential(*layers)
        init_dcgan(self)

    def _draw(self, labels: Tensor, z: Tensor) -> Tensor:
        return self.layers(torch.cat([z, self.embedding(labels)], dim=1)[:, :, None, None])

    def _like(self) -> Tensor:
        return self.embedding.weight

"""The conditional DCGAN discriminator."""

from __future__ import annotations

from torch import Tensor, nn

from mlopt._arguments import checked, from_one
from mlopt._batch_norm import BatchNorm2d
from mlopt._errors import SettingsError
from mlopt.generators._dcgan import (
    DOWN_STAGES,
    check_images,
    check_labels,
    init_dcgan,
    stage,
)

__all__ = ["DCGANDiscriminator"]


class DCGANDiscriminator(nn.Module):
    """Strided convolutions to a feature vector h, and a projection on the class.

        logit(x, y) = linear(h(x)) + <embedding(y), h(x)>

    Each convolution has kernel 4 and stride 2, followed by LeakyReLU(.2), with BatchNorm before it
    except in the first; widths double from `width`, down to a side of 4 (7 for 28x28 images, 2 for
    8x8). h is the last feature map, flattened: DCGAN's last convolution, once for all classes and
    once per class.

    Do not use it with a penalty per sample (WGAN-GP): BatchNorm couples the samples of a batch.

    Args:
        image_size: side of the images: 8, 16, 28, 32, 64 or 128.
        channels: channels of the images.
        classes: number of classes.
        width: channels of the first convolution.

    Raises:
        SettingsError: `image_size` is not supported, or another setting is smaller than 1.

    Reference: Radford et al., 2016, as in `DCGANGenerator`; projection: Miyato, Koyama, "cGANs with
    projection discriminator", 2018.
    """

    @checked(SettingsError, channels=from_one, classes=from_one, width=from_one)
    def __init__(self, image_size: int, channels: int, classes: int, width: int = 64) -> None:
        super().__init__()
        side, count = stage(image_size, DOWN_STAGES, "DCGANDiscriminator")
        self.image_size, self.channels, self.classes = image_size, channels, classes
        layers: list[nn.Module] = [
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for k in range(1, count):
            layers += [
                nn.Conv2d(width * 2 ** (k - 1), width * 2**k, 4, stride=2, padding=1, bias=False),
                BatchNorm2d(width * 2**k),
                nn.LeakyReLU(0.2),
            ]
        features = width * 2 ** (count - 1) * side**2
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.linear = nn.Linear(features, 1)
        self.embedding = nn.Embedding(classes, features)
        nn.init.normal_(self.embedding.weight, 0.0, 0.02)
        init_dcgan(self)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Judge images of given classes.

        Args:
            x: images, (B, channels, image_size, image_size).
            labels: class indices, (B,).

        Returns:
            Logits, (B,): positive means real.

        Raises:
            DataError: the images have another shape, or the labels are not class indices (their
                range is checked on the CPU alone).
        """
        check_labels(labels, self.classes, "DCGANDiscriminator")
        check_images(x, labels, self.channels, self.image_size, "DCGANDiscriminator")
        h = self.layers(x)
        return self.linear(h).squeeze(1) + (self.embedding(labels) * h).sum(dim=1)

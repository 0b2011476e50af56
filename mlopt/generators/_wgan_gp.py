"""What the WGAN-GP networks have in common: a critic's way to score, and the initialisation."""

from __future__ import annotations

import math

from torch import Tensor, nn

from mlopt._errors import SettingsError
from mlopt.generators._dcgan import check_images, check_labels
from mlopt.generators.conditional_batch_norm import ConditionalBatchNorm

#: How a critic may read the class.
CONDITIONINGS = ("projection", "auxiliary")


class CriticHead(nn.Module):
    """From features (B, F) to scores (B,), with a projection on the class or a classifier."""

    def __init__(self, features: int, classes: int, conditioning: str, where: str) -> None:
        super().__init__()
        self.where = where
        self.linear = nn.Linear(features, 1)
        self.embedding = nn.Embedding(classes, features) if conditioning == "projection" else None
        self.classifier = nn.Linear(features, classes) if conditioning == "auxiliary" else None
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, 0.0, features**-0.5)

    def forward(self, h: Tensor, labels: Tensor) -> Tensor:
        """linear(h), plus <embedding(label), h> with a projection."""
        score = self.linear(h).squeeze(1)
        return score if self.embedding is None else score + (self.embedding(labels) * h).sum(dim=1)

    def classify(self, h: Tensor) -> Tensor:
        """Class logits (B, classes), with an auxiliary classifier."""
        if self.classifier is None:
            raise SettingsError(
                f"{self.where}.judge: this critic has no classifier; make it with "
                'conditioning="auxiliary".'
            )
        return self.classifier(h)


class Critic(nn.Module):
    """A critic of images of given classes; a subclass has `features` and makes the `head`."""

    image_size: int
    channels: int
    classes: int
    head: CriticHead

    def features(self, x: Tensor) -> Tensor:
        """What the head reads, (B, F), of images (B, channels, image_size, image_size)."""
        raise NotImplementedError

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Score images of given classes.

        Args:
            x: images, (B, channels, image_size, image_size).
            labels: class indices, (B,).

        Returns:
            Scores, (B,), without bounds: higher means more real.

        Raises:
            DataError: the images have another shape, or the labels are not class indices (their
                range is checked on the CPU alone).
        """
        return self.head(self._checked(x, labels), labels)

    def judge(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Scores, and the auxiliary classifier's logits, from one pass.

        Args:
            x: images, (B, channels, image_size, image_size).
            labels: class indices, (B,).

        Returns:
            Scores (B,) and class logits (B, classes).

        Raises:
            DataError: as `forward`.
            SettingsError: the critic has no classifier.
        """
        h = self._checked(x, labels)
        return self.head(h, labels), self.head.classify(h)

    def _checked(self, x: Tensor, labels: Tensor) -> Tensor:
        where = type(self).__name__
        check_labels(labels, self.classes, where)
        check_images(x, labels, self.channels, self.image_size, where)
        return self.features(x)


def init_he(module: nn.Module) -> None:
    """He's uniform initialisation of (transposed) convolutions, Glorot's of linear maps; biases 0.

    Each output of a transposed convolution of stride s meets one weight in s^2. Gains of a
    conditional BatchNorm are 1 and offsets 0, for every class.
    """
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            met = part.in_channels * math.prod(part.kernel_size)
            if isinstance(part, nn.ConvTranspose2d):
                met /= math.prod(part.stride)
            bound = math.sqrt(6 / met)
            nn.init.uniform_(part.weight, -bound, bound)
        elif isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
        elif isinstance(part, ConditionalBatchNorm):
            for table in (part.gain, part.offset):  # the gain is 1 plus its table
                nn.init.zeros_(table.get_parameter("weight"))
            continue
        else:
            continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)

"""What the WGAN-GP networks have in common: a critic's head, and the initialisation."""

from __future__ import annotations

import math

from torch import Tensor, nn

from mlopt._errors import SettingsError
from mlopt.generators.conditional_batch_norm import ConditionalBatchNorm

#: How a critic may read the class.
CONDITIONINGS = ("projection", "auxiliary")


class CriticHead(nn.Module):
    """From features (B, F) to scores (B,), with a projection on the class or a classifier."""

    def __init__(self, features: int, classes: int, conditioning: str, where: str) -> None:
        super().__init__()
        if conditioning not in CONDITIONINGS:
            raise SettingsError(
                f"{where}: conditioning={conditioning!r} must be one of {', '.join(CONDITIONINGS)}."
            )
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

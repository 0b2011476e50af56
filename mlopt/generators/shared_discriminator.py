"""A discriminator whose trunk is a search network: its architecture is the classifier's."""

from __future__ import annotations

from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from mlopt._arguments import checked, from_one, in_body
from mlopt._errors import DataError, SettingsError
from mlopt.generators._dcgan import check_labels

__all__ = ["SharedDiscriminator", "Trunk"]


@runtime_checkable
class Trunk(Protocol):
    """What `SharedDiscriminator` asks of a search network, which must be an `nn.Module` too."""

    out_features: int
    """Length of the feature vector."""

    def features(self, x: Tensor, a: Any) -> Tensor:
        """Features (B, out_features) of normalised images x, (B, C, H, W), at architecture a."""
        ...


class SharedDiscriminator(nn.Module):
    """A search network as trunk, and a projection on the class.

        logit(x, y, a) = linear(h) + <embedding(y), h>,     h = trunk.features(x, a)

    This is the literal reading of LFM-CW's "discriminator with the same architecture": the trunk
    has its own weights but is evaluated at the classifier's architecture, so the GAN's losses
    depend on the architecture.

    The trunk belongs to this module: its parameters are trained with the head's.

    Pass real and generated images of a step together, with `pair`. The cells of a search network
    end in BatchNorm without gain and offset, so the features of a batch have mean zero whatever is
    in it: if real and generated images come in two calls, their mean logits differ by class alone,
    and the generator learns little.

    Args:
        trunk: an `nn.Module` with `out_features` and `features(x, a)`, see `Trunk`.
        classes: number of classes.

    Raises:
        SettingsError: the trunk lacks one of these, or `classes` is smaller than 1.

    Reference: projection as in Miyato, Koyama, "cGANs with projection discriminator", 2018.
    """

    @checked(SettingsError, trunk=in_body, classes=from_one)
    def __init__(self, trunk: nn.Module, classes: int) -> None:
        super().__init__()
        if not isinstance(trunk, nn.Module) or not isinstance(trunk, Trunk):
            raise SettingsError(
                f"SharedDiscriminator: trunk, a {type(trunk).__name__} cannot be a trunk; give an "
                "nn.Module with an int `out_features` and a method `features(x, a)`."
            )
        features = int(trunk.out_features)
        if features < 1:
            raise SettingsError(
                f"SharedDiscriminator: the trunk's out_features={features} must be at least 1."
            )
        self.classes = classes
        self.trunk = trunk
        self.linear = nn.Linear(features, 1)
        self.embedding = nn.Embedding(classes, features)
        nn.init.normal_(self.embedding.weight, 0.0, features**-0.5)

    def forward(self, x: Tensor, labels: Tensor, a: Any) -> Tensor:
        """Judge images of given classes.

        Args:
            x: images in the range that the trunk reads, (B, C, H, W).
            labels: class indices, (B,).
            a: the architecture, handed to the trunk as it is.

        Returns:
            Logits, (B,): positive means real.

        Raises:
            DataError: the labels are not class indices (their range is checked on the CPU alone).
        """
        check_labels(labels, self.classes, "SharedDiscriminator")
        self._check_batch("x", x, labels)
        h = cast(Trunk, self.trunk).features(x, a)
        return self.linear(h).squeeze(1) + (self.embedding(labels) * h).sum(dim=1)

    def pair(self, real: Tensor, fake: Tensor, labels: Tensor, a: Any) -> tuple[Tensor, Tensor]:
        """Judge real and generated images of the same classes as one batch.

        Args:
            real: real images in the range that the trunk reads, (B, C, H, W).
            fake: generated images in the same range, (B, C, H, W).
            labels: class indices of both, (B,).
            a: the architecture.

        Returns:
            Logits of the real and of the generated images, (B,) each.

        Raises:
            DataError: the images differ in shape, or the labels are not class indices.
        """
        check_labels(labels, self.classes, "SharedDiscriminator")
        self._check_batch("real", real, labels)
        self._check_batch("fake", fake, labels)
        if real.shape != fake.shape:
            raise DataError(
                f"SharedDiscriminator.pair: real images have shape {tuple(real.shape)} and "
                f"generated ones {tuple(fake.shape)}; give equal shapes."
            )
        logits = self(torch.cat([real, fake]), torch.cat([labels, labels]), a)
        real_logits, fake_logits = logits.chunk(2)
        return real_logits, fake_logits

    def _check_batch(self, name: str, x: Any, labels: Tensor) -> None:
        if isinstance(x, Tensor) and x.is_floating_point() and x.ndim and len(x) == len(labels):
            return
        form = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise DataError(
            f"SharedDiscriminator: {name} is {form}; give one image for each of {len(labels)} "
            "labels."
        )

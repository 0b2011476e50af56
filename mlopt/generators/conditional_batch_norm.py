"""BatchNorm whose gain and offset depend on the class."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mlopt._arguments import checked, from_one
from mlopt._batch_norm import BatchNorm2d
from mlopt._errors import DataError, SettingsError
from mlopt.generators._dcgan import check_labels, check_map

__all__ = ["ConditionalBatchNorm"]


class ConditionalBatchNorm(nn.Module):
    """BatchNorm without gain and offset, then a gain and an offset for each sample.

        out = normalize(x) * (1 + gain(y)) + offset(y)

    With `classes`, gain and offset are embeddings of the class. With `features`, they are linear
    maps, without bias, of a vector that describes the sample: a class embedding that several layers
    share, maybe with noise.

    Args:
        channels: channels of x.
        classes: number of classes, if y is a label; or
        features: length of y, if it is a vector.

    Raises:
        SettingsError: not exactly one of `classes` and `features`, or a number smaller than 1.

    Reference: Dumoulin, Shlens, Kudlur, "A learned representation for artistic style", ICLR 2017;
    de Vries et al., "Modulating early visual processing by language", 2017; the shared embedding
    is from Brock et al., ICLR 2019.
    """

    @checked(
        SettingsError,
        channels=from_one,
        classes=from_one,
        features=from_one,
    )
    def __init__(
        self, channels: int, *, classes: int | None = None, features: int | None = None
    ) -> None:
        super().__init__()
        if (classes is None) == (features is None):
            raise SettingsError(
                f"ConditionalBatchNorm(classes={classes}, features={features}): give one of them."
            )
        self.norm = BatchNorm2d(channels, affine=False)
        self.gain: nn.Module
        self.offset: nn.Module
        if classes is not None:
            self.gain = nn.Embedding(classes, channels)
            self.offset = nn.Embedding(classes, channels)
        elif features is not None:
            self.gain = nn.Linear(features, channels, bias=False)
            self.offset = nn.Linear(features, channels, bias=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Normalise.

        Args:
            x: features, (B, channels, H, W).
            y: class indices (B,), or vectors (B, features).

        Returns:
            Features of the same shape.

        Raises:
            DataError: x is no such tensor, or y no such indices or vectors.
        """
        self._check(x, y)
        gain = 1 + self.gain(y)[:, :, None, None]
        return self.norm(x) * gain + self.offset(y)[:, :, None, None]

    def _check(self, x: Any, y: Any) -> None:
        where = "ConditionalBatchNorm"
        check_map(x, self.norm.num_features, where)
        if isinstance(self.gain, nn.Embedding):
            return check_labels(y, self.gain.num_embeddings, f"{where}: y,")
        expected = (len(x), self.gain.in_features)
        if not isinstance(y, Tensor) or y.shape != expected:
            raise DataError(f"{where}: y must be a tensor of shape {expected}.")
        return None

"""Generated and real images, as each network reads them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import interpolate

from mlopt.data import ImageData


@dataclass(frozen=True)
class Pixels:
    """Between the generator's images, in [-1, 1] and of its size, and those that networks read."""

    data: ImageData
    size: int

    def drawn(self, images: Tensor) -> Tensor:
        """Generated images as the discriminator reads them, of the generator's size."""
        return self.data.normalization.from_generator(images)

    def real(self, images: Tensor) -> Tensor:
        """Real images as the discriminator reads them: reduced to the generator's size."""
        return images if self._equal() else interpolate(images, self.size, mode="area")

    def synthetic(self, images: Tensor) -> Tensor:
        """Generated images as the classifiers read them: enlarged to the data's size."""
        drawn = self.drawn(images)
        if self._equal():
            return drawn
        return interpolate(drawn, self.data.image_size, mode="bilinear", align_corners=False)

    def _equal(self) -> bool:
        return self.size in (0, self.data.image_size)

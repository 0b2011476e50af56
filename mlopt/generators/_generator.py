"""What all generators share: an image for each label, from noise that may be given."""

from __future__ import annotations

from torch import Tensor, nn

from mlopt.generators._dcgan import check_labels, noise_for

__all__ = ["ConditionalGenerator"]


class ConditionalGenerator(nn.Module):
    """A generator of images of given classes; a subclass has `_draw` and `_like`."""

    classes: int
    z: int

    def forward(self, labels: Tensor, z: Tensor | None = None) -> Tensor:
        """Draw one image per label.

        Args:
            labels: class indices, (B,).
            z: noise, (B, z); by default drawn from torch's global generator, on the device and in
                the type of the parameters.

        Returns:
            Images in [-1, 1], (B, channels, image_size, image_size).

        Raises:
            DataError: the labels are not class indices (their range is checked on the CPU alone),
                or the noise has another shape.
        """
        where = type(self).__name__
        check_labels(labels, self.classes, where)
        return self._draw(labels, noise_for(labels, z, self.z, self._like(), where))

    def _draw(self, labels: Tensor, z: Tensor) -> Tensor:
        raise NotImplementedError

    def _like(self) -> Tensor:
        """A parameter, whose device and type noise has."""
        raise NotImplementedError

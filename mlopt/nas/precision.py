"""Networks that compute in a shorter number format than their parameters have."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from mlopt._errors import SettingsError

__all__ = ["MixedPrecision"]


class MixedPrecision(nn.Module):
    """A network whose cells may run under `torch.autocast`; what it returns has the images' format.

    In an engine leave that to `Engine(precision=)`, which takes differences in float32. Do not take
    second-order products by finite differences through a network with an `autocast` of its own: at
    the usual radius, what eight bits of mantissa round is as large as the difference itself.
    First-order hypergradients and `Exact` have the accuracy of the gradients.

    Attributes:
        in_channels: channels of the images.
        autocast: the format of convolutions and products of matrices, such as torch.bfloat16;
            None, the default, for that of the parameters.
    """

    autocast: torch.dtype | None = None
    in_channels: int

    def _precision(self, x: Tensor) -> AbstractContextManager[object]:
        """What the forward pass of images `x` runs in, once they are known to be images."""
        if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[1] != self.in_channels:
            form = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise SettingsError(
                f"{type(self).__name__}: x is {form}; give images (B, {self.in_channels}, H, W)."
            )
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(x.device.type, self.autocast)

"""Batch normalisation that can be differentiated twice in every format."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BatchNorm2d", "Normalisation", "in_float32"]


def in_float32(x: Tensor, normalise: Callable[[Tensor], Tensor], *by: Tensor | None) -> Tensor:
    """Normalise an input of float16 in float32; any other as it is.

    torch's second derivative of `batch_norm` holds the cube of 1 / deviation of a channel in the
    format of the input: infinite in float16 where the deviation is below 0.03, at any loss scale.
    A network that is in float16 itself, `network.half()`, is normalised as torch does it.

    Args:
        x: the input.
        normalise: it -> the result.
        *by: its statistics and parameters; those of float16 go with no other input.

    Returns:
        The result, in the input's format.
    """
    half = torch.float16
    if x.dtype is not half or any(t is not None and t.dtype is half for t in by):
        return normalise(x)
    return normalise(x.float()).to(x.dtype)


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, which normalises an input of float16 in float32; see `in_float32`."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        by = self.running_mean, self.running_var, self.weight, self.bias
        return in_float32(input, super().forward, *by)


class Normalisation(nn.Module):
    """Batch normalisation whose scale is an input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        by, training = (self.running_mean, self.running_var, scale), self.training
        return in_float32(x, lambda x: F.batch_norm(x, *by, training=training), *by)

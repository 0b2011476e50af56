"""Operations of the DARTS family of search spaces, as they stand in an evaluation network."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlopt._batch_norm import BatchNorm2d
from mlopt._errors import SettingsError

__all__ = [
    "OPERATIONS",
    "PRIMITIVES",
    "FactorizedReduce",
    "ReLUConvBN",
    "half_pixels",
    "make_operation",
]

PRIMITIVES: tuple[str, ...] = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The eight candidates of an edge in DARTS, in the order of the architecture's columns."""


class ReLUConvBN(nn.Module):
    """ReLU, convolution without bias, batch normalisation: (B, Cin, H, W) -> (B, Cout, H, W).

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        affine: whether the batch normalisation has a learned scale and shift.
    """

    def __init__(self, in_channels: int, channels: int, affine: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn = BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the three in order."""
        return self.normalised(F.relu(x))

    def normalised(self, x: Tensor) -> Tensor:
        """Apply convolution and normalisation to an input that is already rectified."""
        return self.bn(self.conv(x))


class FactorizedReduce(nn.Module):
    """Halve height and width: (B, Cin, H, W) -> (B, Cout, ceil(H/2), ceil(W/2)).

    After a ReLU, two 1x1 convolutions make half of the channels each: the first from the pixels
    with even row and column, the second from those with odd row and column; concatenation and
    batch normalisation follow.

    Args:
        in_channels: channels of the input.
        channels: channels of the output, an even number.
        affine: whether the batch normalisation has a learned scale and shift.

    Raises:
        SettingsError: if `channels` is odd.
    """

    def __init__(self, in_channels: int, channels: int, affine: bool = True) -> None:
        super().__init__()
        if channels % 2:
            raise SettingsError(
                f"FactorizedReduce: channels must be even (two halves), got {channels}."
            )
        self.even = nn.Conv2d(in_channels, channels // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(in_channels, channels // 2, 1, bias=False)
        self.bn = BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Apply ReLU, both convolutions and the normalisation."""
        return self.normalised(F.relu(x))

    def normalised(self, x: Tensor) -> Tensor:
        """Apply convolutions and normalisation to an input that is already rectified."""
        return self.bn(torch.cat([self.even(x), self.odd(half_pixels(x))], dim=1))


def half_pixels(x: Tensor) -> Tensor:
    """Return the pixels of odd row and column of (B, C, H, W): (B, C, ceil(H/2), ceil(W/2)).

    A zero row or column is appended where the size is odd, so that the result fits the even
    pixels' size.
    """
    rows, columns = x.shape[-2] % 2, x.shape[-1] % 2
    if rows or columns:
        x = F.pad(x, (0, columns, 0, rows))
    return x[:, :, 1::2, 1::2]


def _half(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    """ReLU, depthwise convolution, pointwise convolution, batch normalisation."""
    padding = dilation * (kernel - 1) // 2
    return [
        nn.ReLU(),
        nn.Conv2d(
            channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False
        ),
        nn.Conv2d(channels, channels, 1, bias=False),
        BatchNorm2d(channels, affine=affine),
    ]


def _separable(kernel: int) -> Callable[[int, int, bool], nn.Module]:
    return lambda channels, stride, affine: nn.Sequential(
        *_half(channels, kernel, stride, 1, affine), *_half(channels, kernel, 1, 1, affine)
    )


def _dilated(kernel: int) -> Callable[[int, int, bool], nn.Module]:
    return lambda channels, stride, affine: nn.Sequential(
        *_half(channels, kernel, stride, 2, affine)
    )


def _max_pool(channels: int, stride: int, affine: bool) -> nn.Module:
    del channels, affine
    return nn.MaxPool2d(3, stride=stride, padding=1)


def _avg_pool(channels: int, stride: int, affine: bool) -> nn.Module:
    del channels, affine
    return nn.AvgPool2d(3, stride=stride, padding=1, count_include_pad=False)


def _skip(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)


def _conv_7x1_1x7(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, (1, 7), stride=(1, stride), padding=(0, 3), bias=False),
        nn.Conv2d(channels, channels, (7, 1), stride=(stride, 1), padding=(3, 0), bias=False),
        BatchNorm2d(channels, affine=affine),
    )


OPERATIONS: dict[str, Callable[[int, int, bool], nn.Module]] = {
    "max_pool_3x3": _max_pool,
    "avg_pool_3x3": _avg_pool,
    "skip_connect": _skip,
    "sep_conv_3x3": _separable(3),
    "sep_conv_5x5": _separable(5),
    "sep_conv_7x7": _separable(7),
    "dil_conv_3x3": _dilated(3),
    "dil_conv_5x5": _dilated(5),
    "conv_7x1_1x7": _conv_7x1_1x7,
}
"""Operations that a genotype can name: functions (channels, stride, affine) -> module."""


def make_operation(name: str, channels: int, stride: int = 1, affine: bool = True) -> nn.Module:
    """Build one operation, (B, C, H, W) -> (B, C, ceil(H/stride), ceil(W/stride)).

    Pooling is bare here: only a supernet normalises after it.

    Args:
        name: a key of `OPERATIONS`.
        channels: channels of input and output.
        stride: 1, or 2 on the edges of a reduction cell that leave its two inputs.
        affine: whether batch normalisations have a learned scale and shift.

    Returns:
        The operation.

    Raises:
        SettingsError: if there is no such operation.

    Reference: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019.
    """
    if name not in OPERATIONS:
        raise SettingsError(
            f"There is no operation {name!r}. Choose from: {', '.join(OPERATIONS)}."
        )
    return OPERATIONS[name](channels, stride, affine)

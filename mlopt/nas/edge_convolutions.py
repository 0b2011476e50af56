"""The convolutions of several edges, run together; each edge keeps weights of its own."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlopt._batch_norm import Normalisation
from mlopt.nas.operations import half_pixels

__all__ = [
    "DENSE_CHANNELS",
    "Normalisation",
    "ReducingSkips",
    "SeparableConvolutions",
    "SeparableHalves",
]

DENSE_CHANNELS = 32
"""Up to this width a depthwise and a pointwise convolution are run as their product, one dense
convolution.

It multiplies more, but is several times faster than depthwise convolutions on narrow layers.
"""


def _weights(count: int, *shape: int) -> nn.ParameterList:
    """One convolution weight for each edge, initialised as `torch.nn.Conv2d` does."""
    weights = [nn.Parameter(torch.empty(shape)) for _ in range(count)]
    for weight in weights:
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    return nn.ParameterList(weights)


def _joined(weights: nn.ParameterList) -> Tensor:
    return torch.cat(cast("list[Tensor]", list(weights)))


class SeparableHalves(nn.Module):
    """Depthwise convolution, pointwise convolution, normalisation; the input is already rectified.

    (B, inputs * C, H, W) -> (B, edges * C, H / stride, W / stride); each input feeds
    edges / inputs consecutive edges.
    """

    def __init__(
        self,
        channels: int,
        inputs: int,
        edges: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.inputs = inputs
        self.edges = edges
        self.kernel = kernel
        self.stride = stride
        self.dilation = dilation
        self.padding = dilation * (kernel - 1) // 2
        self.depthwise = _weights(edges, channels, 1, kernel, kernel)
        self.pointwise = _weights(edges, channels, channels, 1, 1)
        self.norm = Normalisation(edges * channels)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        convolve = self._dense if self.channels <= DENSE_CHANNELS else self._separable
        return self.norm(convolve(x, _joined(self.depthwise), _joined(self.pointwise)), scale)

    def _dense(self, x: Tensor, depthwise: Tensor, pointwise: Tensor) -> Tensor:
        edges, channels, kernel = self.edges, self.channels, self.kernel
        product = pointwise.view(edges, channels, channels, 1, 1) * depthwise.view(
            edges, 1, channels, kernel, kernel
        )
        weight = product.view(edges * channels, channels, kernel, kernel)
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation, self.inputs)

    def _separable(self, x: Tensor, depthwise: Tensor, pointwise: Tensor) -> Tensor:
        edges, channels = self.edges, self.channels
        if self.inputs < edges:
            copies = x.unflatten(1, (self.inputs, 1, channels)).expand(
                -1, -1, edges // self.inputs, -1, -1, -1
            )
            x = copies.flatten(1, 3)
        x = F.conv2d(x, depthwise, None, self.stride, self.padding, self.dilation, edges * channels)
        # A batched matrix product is faster than a grouped 1x1 convolution, forwards and backwards.
        weight = pointwise.view(edges, channels, channels).expand(len(x), -1, -1, -1)
        return torch.matmul(weight, x.reshape(len(x), edges, channels, -1)).view(x.shape)


class SeparableConvolutions(nn.ModuleList):
    """Two separable halves with a ReLU between them; the first carries the stride."""

    def __init__(self, channels: int, inputs: int, edges: int, kernel: int, *, stride: int) -> None:
        first = SeparableHalves(channels, inputs, edges, kernel, stride=stride)
        super().__init__([first, SeparableHalves(channels, edges, edges, kernel)])

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        first, second = self
        return second(F.relu(first(x)), scale)


class ReducingSkips(nn.Module):
    """Skip connections of stride 2, a factorized reduction each; the input is already rectified.

    (B, inputs * C, H, W) -> (B, edges * C, ceil(H / 2), ceil(W / 2)).

    Args:
        channels: C, of every state; an even number.
        inputs: states side by side in the input; each feeds edges / inputs consecutive edges.
        edges: how many skip connections.
    """

    def __init__(self, channels: int, inputs: int, edges: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.edges = edges
        self.even = _weights(edges, channels // 2, channels, 1, 1)
        self.odd = _weights(edges, channels // 2, channels, 1, 1)
        self.norm = Normalisation(edges * channels)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """Reduce; scale, (edges * C,), multiplies the normalised channels."""
        even = F.conv2d(x, _joined(self.even), stride=2, groups=self.inputs)
        odd = F.conv2d(half_pixels(x), _joined(self.odd), groups=self.inputs)
        halves = [half.unflatten(1, (self.edges, -1)) for half in (even, odd)]
        return self.norm(torch.cat(halves, dim=2).flatten(1, 2), scale)

"""All mixed edges of a cell that leave the same states, evaluated together.

The DARTS definition evaluates, on every edge, every operation: node = sum_edges sum_o w[edge, o] *
o(source). Much of that is the same for all edges which leave one state, and this file computes it
once per state: the ReLU in front of the convolutions, both poolings and their normalisations. What
differs between edges is only weights, so that one convolution of concatenated weights serves all
of them. The mixture weights of convolutions enter as the scale of their last batch normalisation,
which costs nothing; those of poolings and identities as one small matrix product.

The result is the definition's, up to rounding; so are the parameters, which stay one tensor per
edge and convolution.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlopt.nas.operations import half_pixels

__all__ = ["DENSE_CHANNELS", "MixedEdges", "MixtureWeights", "mixture_weights"]

DENSE_CHANNELS = 32
"""Up to this width a depthwise and a pointwise convolution are run as their product, one dense
convolution.

It multiplies more, but is several times faster than depthwise convolutions on narrow layers.
"""


class MixtureWeights(NamedTuple):
    """Mixture weights of edges from `sources` states to `targets` nodes, as `MixedEdges` uses them.

    Attributes:
        linear: (targets, 3 * sources), max pooling, average pooling and skip of each source.
        scales: (5, sources * targets), rows skip, sep_conv 3 and 5, dil_conv 3 and 5; columns
            source by source.
    """

    linear: Tensor
    scales: Tensor


def mixture_weights(rows: Tensor, sources: int) -> MixtureWeights:
    """Arrange mixture weights (sources * targets, 8), source by source, for `MixedEdges`."""
    linear = rows[:, 1:4].unflatten(0, (sources, -1)).permute(1, 2, 0).flatten(1)
    return MixtureWeights(linear, rows[:, 3:].t())


class _Norm(nn.Module):
    """Batch normalisation whose scale is an input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, scale, training=self.training)


def _weights(count: int, *shape: int) -> nn.ParameterList:
    """One convolution weight for each edge, initialised as `torch.nn.Conv2d` does."""
    weights = [nn.Parameter(torch.empty(shape)) for _ in range(count)]
    for weight in weights:
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    return nn.ParameterList(weights)


def _joined(weights: nn.ParameterList) -> Tensor:
    return torch.cat(cast("list[Tensor]", list(weights)))


class _SeparableHalf(nn.Module):
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
        self.norm = _Norm(edges * channels)

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
        return torch.matmul(weight, x.view(len(x), edges, channels, -1)).view(x.shape)


class _ReducingSkips(nn.Module):
    """Skip connections of stride 2, a factorized reduction each; the input is already rectified.

    (B, inputs * C, H, W) -> (B, edges * C, ceil(H / 2), ceil(W / 2)).
    """

    def __init__(self, channels: int, inputs: int, edges: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.edges = edges
        self.even = _weights(edges, channels // 2, channels, 1, 1)
        self.odd = _weights(edges, channels // 2, channels, 1, 1)
        self.norm = _Norm(edges * channels)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        even = F.conv2d(x, _joined(self.even), stride=2, groups=self.inputs)
        odd = F.conv2d(half_pixels(x), _joined(self.odd), groups=self.inputs)
        halves = [half.unflatten(1, (self.edges, -1)) for half in (even, odd)]
        return self.norm(torch.cat(halves, dim=2).flatten(1, 2), scale)


class MixedEdges(nn.Module):
    """Every edge from each of `sources` states to each of `targets` nodes, summed over the sources.

        output[:, t] = sum_s sum_o w[(s, t), o] * o(source_s)

    (B, sources * C, H, W) -> (B, targets, C, H / stride, W / stride). Normalisations have no
    learned scale or shift, and each pooling is followed by one; 'none' adds zero.

    Args:
        channels: C, of every state.
        sources: states that the edges leave.
        targets: nodes that they reach.
        stride: 1, or 2 for edges that leave the inputs of a reduction cell.

    Reference: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019.
    """

    def __init__(self, channels: int, sources: int, targets: int, stride: int) -> None:
        super().__init__()
        edges = sources * targets
        self.channels = channels
        self.sources = sources
        self.targets = targets
        self.stride = stride
        self.max_norm = _Norm(sources * channels)
        self.avg_norm = _Norm(sources * channels)
        self.skips = _ReducingSkips(channels, sources, edges) if stride == 2 else None
        self.sep3 = self._separable(3)
        self.sep5 = self._separable(5)
        self.dil3 = _SeparableHalf(channels, sources, edges, 3, stride=stride, dilation=2)
        self.dil5 = _SeparableHalf(channels, sources, edges, 5, stride=stride, dilation=2)

    def _separable(self, kernel: int) -> nn.ModuleList:
        edges = self.sources * self.targets
        first = _SeparableHalf(self.channels, self.sources, edges, kernel, stride=self.stride)
        return nn.ModuleList([first, _SeparableHalf(self.channels, edges, edges, kernel)])

    def forward(self, x: Tensor, mixture: MixtureWeights) -> Tensor:
        """Return the sums of the mixed edges, one for each target."""
        rectified = F.relu(x)
        scales = mixture.scales.unsqueeze(-1).expand(-1, -1, self.channels).flatten(1)
        skip, sep3, sep5, dil3, dil5 = scales.unbind()
        total = self.dil3(rectified, dil3) + self.dil5(rectified, dil5)
        for (first, second), scale in ((self.sep3, sep3), (self.sep5, sep5)):
            total = total + second(F.relu(first(rectified)), scale)
        if self.skips is not None:
            total = total + self.skips(rectified, skip)
        batch, _, height, width = total.shape
        per_source = total.view(
            batch, self.sources, self.targets, self.channels, height, width
        ).unbind(1)
        linear = self._linear(x, mixture.linear).view(
            batch, self.targets, self.channels, height, width
        )
        return sum(per_source, start=linear)

    def _linear(self, x: Tensor, weights: Tensor) -> Tensor:
        """Poolings, and identities where the stride is 1: (B, targets, C * H * W)."""
        branches = [
            self.max_norm(F.max_pool2d(x, 3, self.stride, 1)),
            self.avg_norm(F.avg_pool2d(x, 3, self.stride, 1, count_include_pad=False)),
        ]
        if self.stride == 1:
            branches.append(x)
        terms = len(branches) * self.sources
        stacked = torch.cat(branches, dim=1).view(len(x), terms, -1)
        return torch.bmm(weights[:, :terms].expand(len(x), -1, -1), stacked)

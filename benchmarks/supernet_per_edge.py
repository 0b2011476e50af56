"""The supernets of DARTS, P-DARTS, PC-DARTS and DARTS-, edge by edge, as the papers define them.

Each edge owns all of its operations and evaluates them one after the other; nothing is shared. It
is what mlopt's supernet is compared with: tests compare the numbers, `supernet.py` the time.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlopt.nas import PRIMITIVES, ArchitectureWeights

# Operations. No normalisation of a cell has a learned scale and shift.


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=False)


def rectified_conv(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(in_channels, channels, 1, bias=False), batch_norm(channels)
    )


class Reduce(nn.Module):
    """Two convolutions of stride 2 make half of the channels each, the second one pixel further."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(in_channels, channels // 2, 1, stride=2, bias=False)
        self.b = nn.Conv2d(in_channels, channels // 2, 1, stride=2, bias=False)
        self.bn = batch_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        return self.bn(torch.cat([self.a(x), self.b(x[:, :, 1:, 1:])], 1))


class Zero(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x[:, :, :: self.stride, :: self.stride]


def half(c: int, kernel: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    pad = (kernel - 1) // 2 * dilation
    return [
        nn.ReLU(),
        nn.Conv2d(c, c, kernel, stride, pad, dilation, groups=c, bias=False),
        nn.Conv2d(c, c, 1, bias=False),
        batch_norm(c),
    ]


def make_operation(name: str, c: int, stride: int) -> nn.Module:
    average = nn.AvgPool2d(3, stride, 1, count_include_pad=False)
    return {
        "none": lambda: Zero(stride),
        "max_pool_3x3": lambda: nn.Sequential(nn.MaxPool2d(3, stride, 1), batch_norm(c)),
        "avg_pool_3x3": lambda: nn.Sequential(average, batch_norm(c)),
        # P-DARTS drops elements of the identity; at rate 0 it is the identity.
        "skip_connect": lambda: nn.Dropout(0.0) if stride == 1 else Reduce(c, c),
        "sep_conv_3x3": lambda: nn.Sequential(*half(c, 3, stride), *half(c, 3, 1)),
        "sep_conv_5x5": lambda: nn.Sequential(*half(c, 5, stride), *half(c, 5, 1)),
        "dil_conv_3x3": lambda: nn.Sequential(*half(c, 3, stride, 2)),
        "dil_conv_5x5": lambda: nn.Sequential(*half(c, 5, stride, 2)),
    }[name]()


def auxiliary_skip(kind: str, c: int, stride: int) -> nn.Module:
    """DARTS-' skip connection beside the mixture: it begins as the identity where it can."""
    if stride == 2:
        return Reduce(c, c)
    if kind == "skip":
        return nn.Identity()
    conv = nn.Conv2d(c, c, 1, bias=False)
    nn.init.dirac_(conv.weight)
    return conv


# Edge, cell, network.


def total(terms: Iterable[Tensor]) -> Tensor:
    """The sum; `sum` would add the first term to a zero."""
    return functools.reduce(operator.add, terms)


class Edge(nn.Module):
    """sum_o w_o o(x) over the operations that the edge has; with what the variants add.

    PC-DARTS: the first 1 / partial of the channels are mixed, the others pass by, and a shuffle
    mixes both. DARTS-: beta * skip(x) is added.
    """

    def __init__(
        self, c: int, stride: int, names: Sequence[str], partial: int, auxiliary: str | None
    ) -> None:
        super().__init__()
        self.partial, self.mixed, self.stride = partial, c // partial, stride
        names = [name for name in names if name != "none"] or names  # it only adds zero
        self.ops = nn.ModuleDict({n: make_operation(n, self.mixed, stride) for n in names})
        self.auxiliary = auxiliary_skip(auxiliary, c, stride) if auxiliary else None

    def forward(self, x: Tensor, weights: Tensor, beta: float) -> Tensor:
        mixed, passing = x[:, : self.mixed], x[:, self.mixed :]
        y = total(weights[PRIMITIVES.index(n)] * op(mixed) for n, op in self.ops.items())
        if self.partial > 1:
            if self.stride == 2:
                passing = F.max_pool2d(passing, 2, 2)
            y = torch.cat([y, passing], 1)
            y = y.unflatten(1, (self.partial, self.mixed)).transpose(1, 2).flatten(1, 2)
        if self.auxiliary is not None:
            y = y + beta * self.auxiliary(x)
        return y


class Cell(nn.Module):
    """Two inputs, nodes that add their edges from all earlier states; the nodes side by side."""

    def __init__(
        self,
        nodes: int,
        widths: tuple[int, int],
        c: int,
        reduction: bool,
        after_reduction: bool,
        operations: Sequence[Sequence[str]],
        **variant: Any,
    ) -> None:
        super().__init__()
        self.nodes, self.reduction = nodes, reduction
        self.pre0 = Reduce(widths[0], c) if after_reduction else rectified_conv(widths[0], c)
        self.pre1 = rectified_conv(widths[1], c)
        sources = [source for node in range(nodes) for source in range(node + 2)]
        self.edges = nn.ModuleList(
            Edge(c, 2 if reduction and source < 2 else 1, names, **variant)
            for source, names in zip(sources, operations, strict=True)
        )

    def forward(
        self, s0: Tensor, s1: Tensor, weights: Tensor, edge_weights: Tensor | None, beta: float
    ) -> Tensor:
        states, edge = [self.pre0(s0), self.pre1(s1)], 0
        for _ in range(self.nodes):
            incoming = []
            for state in states:
                y = self.edges[edge](state, weights[edge], beta)
                incoming.append(y if edge_weights is None else edge_weights[edge] * y)
                edge += 1
            states.append(total(incoming))
        return torch.cat(states[2:], 1)


def stem_layers(in_channels: int, c: int, form: str) -> tuple[nn.Module, nn.Module]:
    """What makes the two inputs of the first cell: the second reads the first's output."""
    if form == "cifar":
        stem = nn.Sequential(nn.Conv2d(in_channels, c, 3, 1, 1, bias=False), nn.BatchNorm2d(c))
        return stem, nn.Identity()
    first = nn.Sequential(
        nn.Conv2d(in_channels, c // 2, 3, 2, 1, bias=False), nn.BatchNorm2d(c // 2), nn.ReLU(),
        nn.Conv2d(c // 2, c, 3, 2, 1, bias=False), nn.BatchNorm2d(c),
    )  # fmt: skip
    second = nn.Sequential(nn.ReLU(), nn.Conv2d(c, c, 3, 2, 1, bias=False), nn.BatchNorm2d(c))
    return first, second


class PerEdgeSupernet(nn.Module):
    """The supernet of all four spaces.

    Args:
        channels: channels of the first cells.
        layers: number of cells.
        classes: number of logits.
        nodes: intermediate nodes of a cell.
        in_channels: channels of the images.
        stem_multiplier: the stem has `stem_multiplier * channels` channels.
        form: `cifar` or `imagenet`: the stem, which divides height and width by 1 or 8.
        partial: PC-DARTS: one channel of so many is mixed.
        auxiliary: DARTS-: `skip` or `conv`, the skip connection beside each mixture.
        normal_operations: P-DARTS: the operations that each edge of a normal cell still has.
        reduce_operations: the same of the reduction cells.

    Attributes:
        beta: DARTS-: what the skip connection beside the mixture is multiplied with.

    References: Liu et al., "DARTS: Differentiable Architecture Search", ICLR 2019; Chen et al.,
        "Progressive Differentiable Architecture Search", ICCV 2019; Xu et al., "PC-DARTS: Partial
        Channel Connections for Memory-Efficient Architecture Search", ICLR 2020; Chu et al.,
        "DARTS-: Robustly Stepping out of Performance Collapse without Indicators", ICLR 2021.
    """

    def __init__(
        self,
        channels: int = 16,
        layers: int = 8,
        classes: int = 10,
        nodes: int = 4,
        in_channels: int = 3,
        stem_multiplier: int = 3,
        form: Literal["cifar", "imagenet"] = "cifar",
        partial: int = 1,
        auxiliary: Literal["skip", "conv"] | None = None,
        normal_operations: Sequence[Sequence[str]] | None = None,
        reduce_operations: Sequence[Sequence[str]] | None = None,
    ) -> None:
        super().__init__()
        full = [PRIMITIVES] * (nodes * (nodes + 3) // 2)
        kept = (normal_operations or full, reduce_operations or full)
        c = stem_multiplier * channels
        self.beta = 1.0
        self.stem0, self.stem1 = stem_layers(in_channels, c, form)
        self.cells = nn.ModuleList()
        widths, after = (c, c), form == "imagenet"
        for layer in range(layers):
            reduction = layer in (layers // 3, 2 * layers // 3)
            channels = channels * 2 if reduction else channels
            self.cells.append(
                Cell(
                    nodes,
                    widths,
                    channels,
                    reduction,
                    after,
                    kept[reduction],
                    partial=partial,
                    auxiliary=auxiliary,
                )  # fmt: skip
            )
            widths, after = (widths[1], nodes * channels), reduction
        self.classifier = nn.Linear(widths[1], classes)

    def set_skip_dropout(self, rate: float) -> None:
        """P-DARTS: the rate at which skip connections of stride 1 lose elements."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = rate

    def forward(self, x: Tensor, weights: ArchitectureWeights) -> Tensor:
        s0 = self.stem0(x)
        s1 = self.stem1(s0)
        mixtures = (
            (weights.normal, weights.normal_edges),
            (weights.reduce, weights.reduce_edges),
        )
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, *mixtures[cell.reduction], self.beta)
        return self.classifier(F.adaptive_avg_pool2d(s1, 1).flatten(1))

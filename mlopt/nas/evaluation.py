"""The network that a genotype stands for, trained from scratch to judge a search."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlopt._errors import SettingsError
from mlopt.nas.genotype import Genotype
from mlopt.nas.operations import FactorizedReduce, ReLUConvBN, make_operation

__all__ = ["EvaluationNetwork"]


def _drop_path(x: Tensor, rate: float) -> Tensor:
    """Zero whole samples with probability `rate`, and scale the others to keep the mean."""
    keep = 1.0 - rate
    mask = torch.empty((len(x), 1, 1, 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
    return x / keep * mask


class _Cell(nn.Module):
    """One cell of a genotype: two inputs to (B, len(concat) * channels, H, W)."""

    def __init__(
        self,
        genotype: Genotype,
        in_channels: tuple[int, int],
        channels: int,
        *,
        reduction: bool,
        after_reduction: bool,
    ) -> None:
        super().__init__()
        pairs = genotype.reduce if reduction else genotype.normal
        self.concat = genotype.reduce_concat if reduction else genotype.normal_concat
        self.sources = [source for _, source in pairs]
        preprocess = FactorizedReduce if after_reduction else ReLUConvBN
        self.preprocess0 = preprocess(in_channels[0], channels)
        self.preprocess1 = ReLUConvBN(in_channels[1], channels)
        self.operations = nn.ModuleList(
            make_operation(name, channels, stride=2 if reduction and source < 2 else 1)
            for name, source in pairs
        )

    def forward(self, input0: Tensor, input1: Tensor, drop_path: float) -> Tensor:
        states = [self.preprocess0(input0), self.preprocess1(input1)]
        branches: list[Tensor] = []
        for operation, source in zip(self.operations, self.sources, strict=True):
            branch = operation(states[source])
            if drop_path > 0 and not isinstance(operation, nn.Identity):
                branch = _drop_path(branch, drop_path)
            branches.append(branch)
            if len(branches) == 2:
                states.append(branches[0] + branches[1])
                branches.clear()
        return torch.cat([states[state] for state in self.concat], dim=1)


class _AuxiliaryHead(nn.Module):
    """A second classifier on a feature map of 6 to 10 pixels a side, which it pools to 2x2."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 128, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(128)
        self.conv2 = nn.Conv2d(128, 768, 2, bias=False)
        self.bn2 = nn.BatchNorm2d(768)
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if not (6 <= height <= 10 and 6 <= width <= 10):
            raise SettingsError(
                "EvaluationNetwork: the auxiliary head reads a feature map of 6 to 10 pixels a side"
                f" (8 for images of 32), got {height}x{width}. For this image size build the "
                "network with auxiliary=False."
            )
        # Stride 3 on 8 pixels, as published; 7 pixels (images of 28) need 2 for the same 2x2.
        x = F.avg_pool2d(F.relu(x), 5, stride=(min(3, height - 5), min(3, width - 5)))
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.classifier(x.flatten(1))


class EvaluationNetwork(nn.Module):
    """Network of a genotype's cells for small images, as DARTS evaluates on CIFAR.

    A 3x3 stem with 3 * channels, `layers` cells, global pooling and a linear classifier; cells
    `layers // 3` and `2 * layers // 3` are reduction cells and double the channels. The auxiliary
    classifier reads the output of the second reduction cell, in training mode only.

    Args:
        genotype: the cells.
        channels: channels of the first cells.
        layers: number of cells.
        classes: number of logits.
        in_channels: channels of the images.
        auxiliary: whether there is an auxiliary classifier; it needs images of 24 to 40 pixels a
            side.
        drop_path: see the attribute.

    Attributes:
        drop_path: probability, in training mode, that a sample loses a branch (an operation other
            than the identity). It may be set at any time; usually it grows over the epochs.

    Raises:
        SettingsError: if a number is less than one, or `drop_path` is not in [0, 1).

    Reference: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, section
        3.2.
    """

    def __init__(
        self,
        genotype: Genotype,
        channels: int = 36,
        layers: int = 20,
        classes: int = 10,
        in_channels: int = 3,
        auxiliary: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (
            ("channels", channels),
            ("layers", layers),
            ("classes", classes),
            ("in_channels", in_channels),
        ):
            if value < 1:
                raise SettingsError(f"EvaluationNetwork: {name} must be at least 1, got {value}.")
        if not 0 <= drop_path < 1:
            raise SettingsError(f"EvaluationNetwork: drop_path must be in [0, 1), got {drop_path}.")
        self.drop_path = drop_path
        stem_channels = 3 * channels
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, stem_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(stem_channels),
        )
        self.auxiliary_layer = 2 * layers // 3
        self.auxiliary: _AuxiliaryHead | None = None
        cells: list[_Cell] = []
        widths = (stem_channels, stem_channels)
        after_reduction = False
        for layer in range(layers):
            reduction = layer in (layers // 3, 2 * layers // 3)
            if reduction:
                channels *= 2
            cells.append(
                _Cell(
                    genotype, widths, channels, reduction=reduction, after_reduction=after_reduction
                )
            )
            widths = (widths[1], len(cells[-1].concat) * channels)
            after_reduction = reduction
            if auxiliary and layer == self.auxiliary_layer:
                self.auxiliary = _AuxiliaryHead(widths[1], classes)
        self.cells = nn.ModuleList(cells)
        self.classifier = nn.Linear(widths[1], classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Classify images.

        Args:
            x: (B, in_channels, H, W).

        Returns:
            logits (B, classes), and those of the auxiliary classifier, or None without one or in
            evaluation mode.

        Raises:
            SettingsError: if the images do not suit the auxiliary classifier.
        """
        older = newer = self.stem(x)
        auxiliary: Tensor | None = None
        for layer, cell in enumerate(self.cells):
            older, newer = newer, cell(older, newer, self.drop_path if self.training else 0.0)
            if self.training and self.auxiliary is not None and layer == self.auxiliary_layer:
                auxiliary = self.auxiliary(newer)
        return self.classifier(newer.mean(dim=(2, 3))), auxiliary

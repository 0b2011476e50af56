"""What the evaluation networks of small and of large images share: cells, heads, drop path."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlopt._batch_norm import BatchNorm2d
from mlopt._errors import SettingsError
from mlopt.nas.genotype import Genotype
from mlopt.nas.operations import FactorizedReduce, ReLUConvBN, make_operation
from mlopt.nas.precision import MixedPrecision

__all__ = ["AuxiliaryHead", "Cell", "CellNetwork", "drop_samples"]


def drop_samples(x: Tensor, rate: float) -> Tensor:
    """Zero whole samples with probability `rate`, and scale the others to keep the mean."""
    keep = 1.0 - rate
    mask = torch.empty((len(x), 1, 1, 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
    return x / keep * mask


class Cell(nn.Module):
    """One cell of a genotype: two inputs to (B, len(concat) * channels, H, W).

    Args:
        genotype: both cells.
        in_channels: of the two inputs.
        channels: of the nodes.
        reduction: whether this is the reduction cell.
        after_reduction: whether the older input is twice as large as the newer one.
    """

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
        """Apply the cell; `drop_path` is the rate at which a sample loses a branch."""
        states = [self.preprocess0(input0), self.preprocess1(input1)]
        branches: list[Tensor] = []
        for operation, source in zip(self.operations, self.sources, strict=True):
            branch = operation(states[source])
            if drop_path > 0 and not isinstance(operation, nn.Identity):
                branch = drop_samples(branch, drop_path)
            branches.append(branch)
            if len(branches) == 2:
                states.append(branches[0] + branches[1])
                branches.clear()
        return torch.cat([states[state] for state in self.concat], dim=1)


class AuxiliaryHead(nn.Module):
    """A second classifier on a feature map of 6 to 10 pixels a side, which it pools to 2x2.

    Args:
        channels: of the feature map.
        classes: number of logits.
        second_norm: whether the second convolution has a batch normalisation, too.
    """

    def __init__(self, channels: int, classes: int, second_norm: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 128, 1, bias=False)
        self.bn1 = BatchNorm2d(128)
        self.conv2 = nn.Conv2d(128, 768, 2, bias=False)
        self.bn2 = BatchNorm2d(768) if second_norm else nn.Identity()
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify: (B, channels, H, W) to (B, classes)."""
        height, width = x.shape[-2:]
        if not (6 <= height <= 10 and 6 <= width <= 10):
            raise SettingsError(
                "The auxiliary head reads a feature map of 6 to 10 pixels a side (8 for images of "
                f"32, 7 in an ImageNetNetwork for images of 224), got {height}x{width}. For this "
                "image size build the network with auxiliary=False."
            )
        # As published: stride 3 on 8 pixels (CIFAR) and 2 on 7 (ImageNet), for 2x2 in both.
        x = F.avg_pool2d(F.relu(x), 5, stride=(min(3, height - 5), min(3, width - 5)))
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.classifier(x.flatten(1))


class CellNetwork(MixedPrecision):
    """Cells of a genotype between a stem, which a subclass builds, and a classifier.

    Cells `layers // 3` and `2 * layers // 3` are reduction cells and double the channels. The
    auxiliary classifier reads the output of the second reduction cell, in training mode only.

    Args:
        drop_path: see the attribute.
        in_channels: of the images.

    Attributes:
        drop_path: probability, in training mode, that a sample loses a branch (an operation other
            than the identity). It may be set at any time; usually it grows over the epochs.
        autocast: number format that the network computes in; see `MixedPrecision`.

    Raises:
        SettingsError: if a number is less than one, or `drop_path` is not in [0, 1).
    """

    classifier: nn.Linear

    def __init__(self, drop_path: float, in_channels: int) -> None:
        super().__init__()
        self.drop_path, self.in_channels = drop_path, in_channels
        self.auxiliary: AuxiliaryHead | None = None

    def _add_cells(
        self,
        genotype: Genotype,
        channels: int,
        layers: int,
        classes: int,
        widths: tuple[int, int],
        *,
        after_reduction: bool,
        second_norm: bool | None,
    ) -> None:
        """Make what follows the stem.

        Args:
            genotype: the cells.
            channels: of the first cell.
            layers: number of cells.
            classes: number of logits.
            widths: channels of the first cell's inputs.
            after_reduction: whether the first of these inputs is twice as large as the second.
            second_norm: see `AuxiliaryHead`; None for a network without it.
        """
        self.auxiliary_layer = 2 * layers // 3
        cells: list[Cell] = []
        for layer in range(layers):
            reduction = layer in (layers // 3, 2 * layers // 3)
            channels *= 2 if reduction else 1
            cell = Cell(
                genotype, widths, channels, reduction=reduction, after_reduction=after_reduction
            )
            cells.append(cell)
            widths, after_reduction = (widths[1], len(cell.concat) * channels), reduction
            if second_norm is not None and layer == self.auxiliary_layer:
                self.auxiliary = AuxiliaryHead(widths[1], classes, second_norm)
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
        auxiliary: Tensor | None = None
        with self._precision(x):
            older, newer = self._begin(x)
            for layer, cell in enumerate(self.cells):
                older, newer = newer, cell(older, newer, self.drop_path if self.training else 0.0)
                if self.training and self.auxiliary is not None and layer == self.auxiliary_layer:
                    auxiliary = self.auxiliary(newer).to(x.dtype)
        return self.classifier(newer.to(x.dtype).mean(dim=(2, 3))), auxiliary

    def _begin(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The first cell's two inputs."""
        raise NotImplementedError

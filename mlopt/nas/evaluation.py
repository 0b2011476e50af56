"""The network that a genotype stands for, trained from scratch to judge a search."""

from __future__ import annotations

from torch import Tensor, nn

from mlopt._arguments import checked, from_one, within
from mlopt._batch_norm import BatchNorm2d
from mlopt._errors import SettingsError
from mlopt.nas.cell_network import CellNetwork
from mlopt.nas.genotype import Genotype

__all__ = ["EvaluationNetwork"]


class EvaluationNetwork(CellNetwork):
    """Network of a genotype's cells for small images, as DARTS evaluates on CIFAR.

    A 3x3 stem with 3 * channels, `layers` cells, global pooling and a linear classifier; cells
    `layers // 3` and `2 * layers // 3` are reduction cells and double the channels. The auxiliary
    classifier reads the output of the second reduction cell, in training mode only.

    For large images use `ImageNetNetwork`, whose stem makes them eight times smaller.

    Args:
        genotype: the cells.
        channels: channels of the first cells.
        layers: number of cells.
        classes: number of logits.
        in_channels: channels of the images.
        auxiliary: whether there is an auxiliary classifier; it needs images of 21 to 40 pixels a
            side.
        drop_path: see the attribute.

    Attributes:
        drop_path: probability, in training mode, that a sample loses a branch (an operation other
            than the identity). It may be set at any time; usually it grows over the epochs.
        autocast: number format that the network computes in; see `MixedPrecision`.

    Raises:
        SettingsError: if a number is less than one, or `drop_path` is not in [0, 1).

    Reference: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, section
        3.2.
    """

    @checked(
        SettingsError,
        channels=from_one,
        layers=from_one,
        classes=from_one,
        in_channels=from_one,
        drop_path=within("[0, 1)"),
    )
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
        super().__init__(drop_path, in_channels)
        width = 3 * channels
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False), BatchNorm2d(width)
        )
        self._add_cells(
            genotype,
            channels,
            layers,
            classes,
            (width, width),
            after_reduction=False,
            second_norm=True if auxiliary else None,
        )

    def _begin(self, x: Tensor) -> tuple[Tensor, Tensor]:
        state = self.stem(x)
        return state, state

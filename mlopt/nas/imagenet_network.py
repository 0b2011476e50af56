"""The network of a genotype for large images."""

from __future__ import annotations

from torch import Tensor, nn

from mlopt._arguments import checked, from_one, within
from mlopt._batch_norm import BatchNorm2d
from mlopt._errors import SettingsError
from mlopt.nas.cell_network import CellNetwork
from mlopt.nas.genotype import Genotype

__all__ = ["ImageNetNetwork"]


class ImageNetNetwork(CellNetwork):
    """Network of a genotype's cells for large images, as DARTS evaluates on ImageNet.

    Three convolutions of stride 2 come before the first cell, which reads the feature maps after
    the second (one quarter of the image's side) and after the third (one eighth):

        stem0 = BN(conv(ReLU(BN(conv(x)))))    (B, channels, H/4, W/4)
        stem1 = BN(conv(ReLU(stem0)))          (B, channels, H/8, W/8)

    Cells, pooling and classifier follow as in `EvaluationNetwork`.

    Args:
        genotype: the cells.
        channels: channels of the stem and of the first cells, an even number.
        layers: number of cells.
        classes: number of logits.
        in_channels: channels of the images.
        auxiliary: whether there is an auxiliary classifier; it needs images of 161 to 320 pixels a
            side.
        auxiliary_norm: whether the auxiliary classifier normalises after its second convolution.
            Without it (the default) the head is the one of DARTS and PC-DARTS; P-DARTS and DARTS-
            have it. The head serves training only: it changes no reported size.
        drop_path: see the attribute.

    Attributes:
        drop_path: as in `EvaluationNetwork`.
        autocast: as in `EvaluationNetwork`.

    Raises:
        SettingsError: if a number is less than one, `channels` is odd, or `drop_path` is not in
            [0, 1).

    Reference: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, section
        3.3.
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
        channels: int = 48,
        layers: int = 14,
        classes: int = 1000,
        in_channels: int = 3,
        auxiliary: bool = True,
        auxiliary_norm: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(drop_path, in_channels)
        if channels % 2:
            raise SettingsError(f"ImageNetNetwork: channels must be even, got {channels}.")
        self.stem0 = nn.Sequential(
            *_halve(in_channels, channels // 2), nn.ReLU(), *_halve(channels // 2, channels)
        )
        self.stem1 = nn.Sequential(nn.ReLU(), *_halve(channels, channels))
        self._add_cells(
            genotype,
            channels,
            layers,
            classes,
            (channels, channels),
            after_reduction=True,
            second_norm=auxiliary_norm if auxiliary else None,
        )

    def _begin(self, x: Tensor) -> tuple[Tensor, Tensor]:
        older = self.stem0(x)
        return older, self.stem1(older)


def _halve(in_channels: int, channels: int) -> tuple[nn.Module, nn.Module]:
    """A convolution that halves height and width, and its normalisation."""
    conv = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
    return conv, BatchNorm2d(channels)

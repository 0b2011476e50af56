"""The supernet: a network whose cells are mixtures of all operations, weighted from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlopt._arguments import checked, from_one, from_zero
from mlopt._batch_norm import BatchNorm2d
from mlopt._errors import SettingsError
from mlopt.nas.architecture import ArchitectureWeights, CellOperations, count_edges
from mlopt.nas.mixed_cell import MakeEdges, MixedCell, edges_by_source, groups_of_edges
from mlopt.nas.mixed_edges import MixedEdges, Mixture
from mlopt.nas.operations import PRIMITIVES
from mlopt.nas.precision import MixedPrecision

__all__ = ["Schedule", "Supernet", "check_epoch"]

Schedule = Callable[[int, int, int], float]
"""(epoch, epochs, warmup) -> a number."""


def check_epoch(where: str, epoch: int, epochs: int) -> None:
    """Refuse an epoch after the last.

    Args:
        where: who asks, for the error.
        epoch: from 0.
        epochs: how many there are.

    Raises:
        SettingsError: there is no such epoch.
    """
    if epoch >= epochs:
        raise SettingsError(
            f"{where}: epoch must be 0 to epochs - 1, got epoch={epoch}, epochs={epochs}."
        )


class Supernet(MixedPrecision):
    """Network of cells in which every edge is a mixture of operations.

        node_j = sum_{i<j} sum_o w[(i, j), o] * o(node_i),    cell output = its nodes side by side

    The mixture weights are an input, so that one architecture can drive several networks. Cells
    `layers // 3` and `2 * layers // 3` halve the image and double the channels. Batch
    normalisation has a learned scale and shift in the stem only.

    The defaults are DARTS' network; `mlopt.nas.spaces` has the others.

    Args:
        channels: channels of the first cells.
        layers: number of cells.
        classes: number of logits.
        nodes: intermediate nodes of a cell.
        in_channels: channels of the images.
        stem_multiplier: the stem has `stem_multiplier * channels` channels.
        form: `cifar` keeps the size of the images in the stem; `imagenet` divides it by eight.
        operations: the operations that each edge has; all eight by default.
        edges: makes the modules that evaluate the edges.
        schedule: gives the number that the edges read as `Mixture.scheduled` from the epoch.

    Attributes:
        out_features: number of pooled features before the classifier.
        autocast: number format that the cells compute in; see `MixedPrecision`.

    Raises:
        SettingsError: if a number is less than one, or there is no such form.

    References: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019; Xu et
        al., "PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search", ICLR
        2020 (the form for ImageNet).
    """

    @checked(
        SettingsError,
        channels=from_one,
        layers=from_one,
        classes=from_one,
        nodes=from_one,
        in_channels=from_one,
        stem_multiplier=from_one,
    )
    def __init__(
        self,
        channels: int = 16,
        layers: int = 8,
        classes: int = 10,
        nodes: int = 4,
        in_channels: int = 3,
        stem_multiplier: int = 3,
        *,
        form: Literal["cifar", "imagenet"] = "cifar",
        operations: CellOperations | None = None,
        edges: MakeEdges = MixedEdges,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__()
        self.nodes, self.in_channels = nodes, in_channels
        stem_channels = stem_multiplier * channels
        self.stem, self.second_stem = _stem(in_channels, stem_channels, form)
        if operations is None:
            operations = CellOperations.full(nodes)
        cells: list[MixedCell] = []
        widths = (stem_channels, stem_channels)
        after_reduction = self.second_stem is not None
        for layer in range(layers):
            reduction = layer in (layers // 3, 2 * layers // 3)
            if reduction:
                channels *= 2
            cell = MixedCell(
                nodes,
                widths,
                channels,
                reduction=reduction,
                after_reduction=after_reduction,
                operations=operations.reduce if reduction else operations.normal,
                edges=edges,
            )
            cells.append(cell)
            widths = (widths[1], nodes * channels)
            after_reduction = reduction
        self.cells = nn.ModuleList(cells)
        self.out_features = widths[1]
        self.classifier = nn.Linear(self.out_features, classes)
        self.edge_order: Tensor
        order = torch.tensor(edges_by_source(nodes))
        self.register_buffer("edge_order", order, persistent=False)
        self._groups = {
            kind: groups_of_edges(nodes, getattr(operations, kind)) for kind in ("normal", "reduce")
        }
        self._schedule = schedule
        self.scheduled: Tensor | None
        start = None if schedule is None else torch.tensor(schedule(0, 1, 0))
        self.register_buffer("scheduled", start)

    @checked(SettingsError, epoch=from_zero, epochs=from_one, warmup=from_zero)
    def begin_epoch(self, epoch: int, epochs: int, warmup: int = 0) -> None:
        """Set what changes from epoch to epoch; call it first in each. For DARTS that is nothing.

        Args:
            epoch: which epoch begins, from 0.
            epochs: how many there are in this stage of the search.
            warmup: first epochs that do not update the architecture.

        Raises:
            SettingsError: if there is no such epoch.
        """
        check_epoch("Supernet.begin_epoch", epoch, epochs)
        if self._schedule is not None and self.scheduled is not None:
            self.scheduled.fill_(self._schedule(epoch, epochs, warmup))

    def forward(self, x: Tensor, weights: ArchitectureWeights) -> Tensor:
        """Return the logits.

        Args:
            x: images (B, in_channels, H, W).
            weights: mixture weights, (edges, 8) for normal and for reduction cells, and weights of
                the edges if there are any; see `Architecture`.

        Returns:
            (B, classes).

        Raises:
            SettingsError: if the weights have another shape.
        """
        return self.classifier(self.features(x, weights))

    def features(self, x: Tensor, weights: ArchitectureWeights) -> Tensor:
        """Return the pooled features before the classifier.

        Args:
            x: as of `forward`.
            weights: as of `forward`.

        Returns:
            (B, out_features).

        Raises:
            SettingsError: if the weights have another shape.
        """
        if not isinstance(weights, ArchitectureWeights):
            raise SettingsError(
                f"Supernet: weights is a {type(weights).__name__}; give what the architecture "
                "returns when it is called."
            )
        normal = self._arrange("normal", weights.normal, weights.normal_edges)
        reduce = self._arrange("reduce", weights.reduce, weights.reduce_edges)
        with self._precision(x):
            state = self.stem(x)
            # Cells read their inputs through a ReLU only: it is shared by the next two.
            older: Tensor | None = None
            if self.second_stem is not None:
                older = F.relu(state)
                state = self.second_stem(older)
            for cell in self.cells:
                newer = F.relu(state)
                mixtures = reduce if cell.reduction else normal
                state = cell(newer if older is None else older, newer, mixtures)
                older = newer
        return state.to(x.dtype).mean(dim=(2, 3))

    def _arrange(self, kind: str, weights: Tensor, edges: Tensor | None) -> list[Mixture]:
        """Bring (edges, 8) into the order of the cells' groups of edges."""
        expected = (count_edges(self.nodes), len(PRIMITIVES))
        if weights.shape != expected or (edges is not None and edges.shape != expected[:1]):
            edge_shape = None if edges is None else tuple(edges.shape)
            raise SettingsError(
                f"Supernet: mixture weights must have shape {expected} (edges, operations) and "
                f"weights of edges {expected[:1]} for nodes={self.nodes}, got "
                f"{tuple(weights.shape)} and {edge_shape}. Make the architecture with "
                f"Architecture(nodes={self.nodes}), or by the space that made this network."
            )
        sizes = [sources * targets for sources, targets in self._groups[kind]]
        rows = weights.index_select(0, self.edge_order)
        if edges is None:
            return [Mixture(part, None, self.scheduled) for part in rows.split(sizes)]
        edges = edges.index_select(0, self.edge_order)
        parts = zip((rows * edges.unsqueeze(1)).split(sizes), edges.split(sizes), strict=True)
        return [Mixture(part, shares, self.scheduled) for part, shares in parts]


def _stem(in_channels: int, channels: int, form: str) -> tuple[nn.Sequential, nn.Sequential | None]:
    """What makes the input of the first cell, and if it divides the size, the other input."""

    def conv(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        kernel = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        return [kernel, BatchNorm2d(outputs)]

    if form == "cifar":
        return nn.Sequential(*conv(in_channels, channels, 1)), None
    half = max(1, channels // 2)
    first = nn.Sequential(*conv(in_channels, half, 2), nn.ReLU(), *conv(half, channels, 2))
    return first, nn.Sequential(*conv(channels, channels, 2))

"""The supernet: a network whose cells are mixtures of all operations, weighted from outside."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlopt._errors import SettingsError
from mlopt.nas.architecture import ArchitectureWeights, count_edges
from mlopt.nas.mixed_edges import MixedEdges, MixtureWeights, mixture_weights
from mlopt.nas.operations import PRIMITIVES, FactorizedReduce, ReLUConvBN

__all__ = ["Supernet"]


class _Cell(nn.Module):
    """Nodes fed by the two inputs and all earlier nodes; the output is all nodes side by side.

    Edges are grouped by the moment their source is known: first those that leave the two inputs,
    then those that leave each node. The last node feeds none.
    """

    def __init__(
        self,
        nodes: int,
        in_channels: tuple[int, int],
        channels: int,
        *,
        reduction: bool,
        after_reduction: bool,
    ) -> None:
        super().__init__()
        preprocess = FactorizedReduce if after_reduction else ReLUConvBN
        self.nodes = nodes
        self.reduction = reduction
        self.preprocess0 = preprocess(in_channels[0], channels, affine=False)
        self.preprocess1 = ReLUConvBN(in_channels[1], channels, affine=False)
        groups = [MixedEdges(channels, sources=2, targets=nodes, stride=2 if reduction else 1)]
        groups += [
            MixedEdges(channels, sources=1, targets=targets, stride=1)
            for targets in range(nodes - 1, 0, -1)
        ]
        self.groups = nn.ModuleList(groups)

    def forward(self, input0: Tensor, input1: Tensor, weights: list[MixtureWeights]) -> Tensor:
        """Map two rectified cell inputs to (B, nodes * channels, H, W)."""
        source = torch.cat(
            [self.preprocess0.normalised(input0), self.preprocess1.normalised(input1)], dim=1
        )
        outputs: list[Tensor] = []
        pending: Tensor | None = (
            None  # (B, targets, C, H, W): sums so far of the nodes still to come
        )
        for edges, mixture in zip(self.groups, weights, strict=True):
            mixed = edges(source, mixture)
            if pending is not None:
                mixed = mixed + pending
            node, pending = mixed.split([1, mixed.shape[1] - 1], dim=1)
            source = node.squeeze(1)
            outputs.append(source)
        return torch.cat(outputs, dim=1)


class Supernet(nn.Module):
    """Network of cells in which every edge is a mixture of all eight DARTS operations.

        node_j = sum_{i<j} sum_o w[(i, j), o] * o(node_i),    cell output = its nodes side by side

    The mixture weights are an input, so that one architecture can drive several networks. Cells
    `layers // 3` and `2 * layers // 3` halve the image and double the channels. Batch
    normalisation has a learned scale and shift in the stem only.

    Args:
        channels: channels of the first cells.
        layers: number of cells.
        classes: number of logits.
        nodes: intermediate nodes of a cell.
        in_channels: channels of the images.
        stem_multiplier: the stem has `stem_multiplier * channels` channels.

    Attributes:
        out_features: number of pooled features before the classifier.

    Raises:
        SettingsError: if a number is less than one.

    Reference: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019.
    """

    def __init__(
        self,
        channels: int = 16,
        layers: int = 8,
        classes: int = 10,
        nodes: int = 4,
        in_channels: int = 3,
        stem_multiplier: int = 3,
    ) -> None:
        super().__init__()
        given = {
            "channels": channels,
            "layers": layers,
            "classes": classes,
            "nodes": nodes,
            "in_channels": in_channels,
            "stem_multiplier": stem_multiplier,
        }
        for name, value in given.items():
            if value < 1:
                raise SettingsError(f"Supernet: {name} must be at least 1, got {value}.")
        self.nodes = nodes
        stem_channels = stem_multiplier * channels
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, stem_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(stem_channels),
        )
        cells: list[_Cell] = []
        widths = (stem_channels, stem_channels)
        after_reduction = False
        for layer in range(layers):
            reduction = layer in (layers // 3, 2 * layers // 3)
            if reduction:
                channels *= 2
            cells.append(
                _Cell(nodes, widths, channels, reduction=reduction, after_reduction=after_reduction)
            )
            widths = (widths[1], nodes * channels)
            after_reduction = reduction
        self.cells = nn.ModuleList(cells)
        self.out_features = widths[1]
        self.classifier = nn.Linear(self.out_features, classes)
        order, self._group_sizes = _order_edges(nodes)
        self.edge_order: Tensor
        self.register_buffer("edge_order", torch.tensor(order), persistent=False)

    def forward(self, x: Tensor, weights: ArchitectureWeights) -> Tensor:
        """Return the logits.

        Args:
            x: images (B, in_channels, H, W).
            weights: mixture weights, (edges, 8) for normal and for reduction cells; see
                `Architecture`.

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
        normal, reduce = self._arrange(weights.normal), self._arrange(weights.reduce)
        x = self.stem(x)
        older: Tensor | None = None
        for cell in self.cells:
            newer = F.relu(x)  # cells read their inputs through a ReLU only: shared by the next two
            x = cell(newer if older is None else older, newer, reduce if cell.reduction else normal)
            older = newer
        return x.mean(dim=(2, 3))

    def _arrange(self, weights: Tensor) -> list[MixtureWeights]:
        """Bring (edges, 8) into the order of the cells' groups of edges."""
        expected = (count_edges(self.nodes), len(PRIMITIVES))
        if weights.shape != expected:
            raise SettingsError(
                f"Supernet: mixture weights must have shape {expected} (edges, operations) for "
                f"nodes={self.nodes}, got {tuple(weights.shape)}. Make the architecture with "
                f"Architecture(nodes={self.nodes})."
            )
        groups = weights.index_select(0, self.edge_order).split(self._group_sizes)
        return [mixture_weights(rows, 2 if index == 0 else 1) for index, rows in enumerate(groups)]


def _order_edges(nodes: int) -> tuple[list[int], list[int]]:
    """Order edges by source instead of by node, and size the groups of edges of `_Cell`."""
    by_source = [
        [count_edges(node) + source for node in range(max(0, source - 1), nodes)]
        for source in range(nodes + 1)
    ]
    order = [edge for edges in by_source for edge in edges]
    return order, [2 * nodes, *range(nodes - 1, 0, -1)]

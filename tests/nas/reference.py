"""Oracles of the NAS tests: the per-edge supernet, and deterministic weights and images."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from compare import rounding

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from supernet_per_edge import PerEdgeSupernet  # noqa: E402
from supernet_twin import paired_parameters, per_edge, twin  # noqa: E402

__all__ = [
    "PerEdgeSupernet", "fill", "fill_architecture", "images", "paired_parameters", "per_edge",
    "supernet_rounding", "twin",
]  # fmt: skip

NaiveSupernet = PerEdgeSupernet


def pseudo_random(count, salt):
    """Numbers in [-1, 1) from an integer hash: the same in every framework."""
    k = (torch.arange(1, count + 1, dtype=torch.int64) * 2654435761 + salt) & 0xFFFFFFFF
    for _ in range(2):
        k = ((k ^ (k >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    k = k ^ (k >> 16)
    return 2 * k.double() / 2**32 - 1


@torch.no_grad()
def fill(network):
    """Give every conv and linear weight sqrt(6 / fan_in) * hash, zero biases, in float64."""
    network.double()
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            values = math.sqrt(6 / parameter[0].numel()) * pseudo_random(parameter.numel(), 0)
            parameter.copy_(values.view(parameter.shape))
        elif name.endswith("bias"):
            parameter.zero_()
    return network


@torch.no_grad()
def fill_architecture(architecture, stage=1):
    """Sines and cosines of stage + position; of 2 + edge for weights of edges."""
    architecture.double()
    edges, operations = architecture.normal.shape
    n = (operations * torch.arange(edges)[:, None] + torch.arange(operations)).double()
    architecture.normal.copy_(torch.sin(stage + n))
    architecture.reduce.copy_(torch.cos(stage + n))
    if architecture().normal_edges is not None:
        architecture.normal_edges.copy_(torch.sin(2.0 + torch.arange(edges)))
        architecture.reduce_edges.copy_(torch.cos(2.0 + torch.arange(edges)))
    return architecture


def images(salt, batch=4, size=32):
    return 1.7 * pseudo_random(batch * 3 * size * size, salt).view(batch, 3, size, size)


def supernet_rounding(
    passes: int, cells: int, nodes: int, values: int, dtype: torch.dtype = torch.float64
) -> float:
    """What rounding may make of `passes` passes through a small supernet, forwards or backwards.

    The longest way through a cell has an edge into each node, after the preprocessing. An edge is
    a separable convolution, twice a sum over 25 pixels, one over up to 16 channels and a BatchNorm,
    whose mean and variance are sums over the `values` of a channel in the batch; then the sums over
    eight operations and over the edges of a node.

    A BatchNorm behind a ReLU enlarges perturbations by sqrt(pi / (pi - 1)) = 1.21 (Yang et al., "A
    Mean Field Theory of Batch Normalization", ICLR 2019), but a mixture passes most of them by
    poolings and identities; ten is for some thirty of them.
    """
    half = 25 + 16 + 2 * values + 10
    edge = 2 * half + 8 + nodes + 1
    return rounding(passes * cells * (nodes + 1) * edge, condition=10, dtype=dtype)

"""Oracles of the NAS tests: the per-edge supernet, and deterministic weights and images."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from supernet_per_edge import PerEdgeSupernet  # noqa: E402
from supernet_twin import paired_parameters, per_edge, twin  # noqa: E402

__all__ = [
    "PerEdgeSupernet", "fill", "fill_architecture", "images", "paired_parameters", "per_edge",
    "twin",
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

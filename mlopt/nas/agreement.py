"""How much two searches found the same: their genotypes, and their mixtures."""

from __future__ import annotations

from collections import Counter

import torch

from mlopt._arguments import checked
from mlopt._errors import SettingsError
from mlopt.nas.architecture import Architecture
from mlopt.nas.genotype import Genotype

__all__ = ["agreement", "total_variation"]


@checked(SettingsError)
def agreement(first: Genotype, second: Genotype) -> dict[str, float]:
    """The fraction of edges, and of edges with their operation, that two genotypes share.

        edges = |E1 and E2| / |E1|,    E = {(cell, node, source)},    operations: with o as well

    Both cells count together. Two genotypes of DARTS' space that were drawn at random share more
    than nothing: the first node always has both of its edges in common.

    Args:
        first: a genotype.
        second: another one with as many nodes.

    Returns:
        `edges` and `operations`, from 0 to 1.

    Raises:
        SettingsError: the genotypes have different numbers of nodes.
    """
    pairs = [
        [
            (kind, position // 2, source, operation)
            for kind in ("normal", "reduce")
            for position, (operation, source) in enumerate(getattr(genotype, kind))
        ]
        for genotype in (first, second)
    ]
    for kind in ("normal", "reduce"):
        nodes = [len(getattr(genotype, kind)) // 2 for genotype in (first, second)]
        if nodes[0] != nodes[1]:
            raise SettingsError(
                f"agreement(first, second): the {kind} cells have {nodes[0]} and {nodes[1]} "
                "nodes; compare genotypes of one search space."
            )

    def shared(length: int) -> float:
        counts = [Counter(edge[:length] for edge in edges) for edges in pairs]
        return (counts[0] & counts[1]).total() / len(pairs[0])

    return {"edges": shared(3), "operations": shared(4)}


@checked(SettingsError)
@torch.no_grad()
def total_variation(first: Architecture, second: Architecture) -> float:
    """The mean distance of two architectures' mixtures, from 0 (the same) to 1 (nothing shared).

        TV = mean_e 1/2 sum_o | weights1[e, o] - weights2[e, o] |

    Args:
        first: an architecture.
        second: another one with the same edges and operations.

    Returns:
        The mean over the edges of both cells.

    Raises:
        SettingsError: the architectures have different nodes or operations.
    """
    if (first.nodes, first.operations) != (second.nodes, second.operations):
        raise SettingsError(
            f"total_variation(first, second): {first.nodes} nodes with "
            f"{list(first.operations)} and {second.nodes} nodes with {list(second.operations)}; "
            "compare architectures of one search space."
        )
    pairs = zip(first()[:2], second()[:2], strict=True)  # weights of edges are no mixtures
    distances = [(a - b).abs().sum(-1) / 2 for a, b in pairs]
    return torch.cat(distances).mean().item()

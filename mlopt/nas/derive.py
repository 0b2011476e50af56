"""From architecture parameters to a genotype."""

from __future__ import annotations

from torch import Tensor

from mlopt._arguments import checked
from mlopt._errors import SettingsError
from mlopt.nas.architecture import Architecture, count_edges
from mlopt.nas.genotype import Genotype

__all__ = ["derive"]


@checked(SettingsError)
def derive(architecture: Architecture) -> Genotype:
    """Keep, for each node, its two strongest edges and on each the strongest operation.

        strength(e) = max_{o != none} weights[e, o],    operation(e) = argmax_{o != none}
        weights[e, o]

    'none' matters only through the normalisation of the weights. Where edges have weights of their
    own, as in PC-DARTS, weights[e, o] is multiplied by that of its edge. The two pairs of a node
    come in order of strength; ties go to the lower source and to the earlier operation.

    Args:
        architecture: parameters of a search; its operations must be ones that a genotype can name,
            or 'none'.

    Returns:
        The genotype; both cells output all nodes.

    Raises:
        SettingsError: if the strongest operation of an edge cannot stand in a genotype.

    Reference: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, section
        2.4; with weights of the edges: Xu et al., "PC-DARTS: Partial Channel Connections for
        Memory-Efficient Architecture Search", ICLR 2020, section 3.3.
    """
    weights = architecture()
    concat = tuple(range(2, architecture.nodes + 2))
    return Genotype(
        normal=_strongest(weights.normal, weights.normal_edges, architecture),
        normal_concat=concat,
        reduce=_strongest(weights.reduce, weights.reduce_edges, architecture),
        reduce_concat=concat,
    )


def _strongest(
    weights: Tensor, edges: Tensor | None, architecture: Architecture
) -> tuple[tuple[str, int], ...]:
    rows = (weights if edges is None else weights * edges[:, None]).tolist()
    names = architecture.operations
    candidates = [index for index, name in enumerate(names) if name != "none"]
    pairs: list[tuple[str, int]] = []
    for node in range(architecture.nodes):
        incoming = rows[count_edges(node) : count_edges(node + 1)]
        best = [max(candidates, key=row.__getitem__) for row in incoming]  # the first of equals
        strength = [row[index] for row, index in zip(incoming, best, strict=True)]
        kept = sorted(range(len(incoming)), key=lambda source: -strength[source])[:2]
        pairs += [(names[best[source]], source) for source in kept]
    return tuple(pairs)

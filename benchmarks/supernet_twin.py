"""The per-edge supernet beside mlopt's: of the same search space, with the same parameters."""

from __future__ import annotations

import torch
from supernet_per_edge import PerEdgeSupernet
from torch import Tensor, nn

from mlopt.nas import PCDARTS, PDARTS, DARTSMinus, SearchSpace, Supernet


def per_edge(space: SearchSpace, classes: int, in_channels: int = 3) -> PerEdgeSupernet:
    """The per-edge supernet of a search space at its stage, as in the first epoch after warm-up."""
    channels, variant, dropout = space.channels, {}, 0.0
    if isinstance(space, PCDARTS):
        variant = {"partial": space.parts}
    elif isinstance(space, DARTSMinus):
        variant = {"auxiliary": space.auxiliary}
    elif isinstance(space, PDARTS):
        channels += space.add_width[space.stage]
        dropout = space.skip_dropout[space.stage]
        kept = space.operations
        variant = {"normal_operations": kept.normal, "reduce_operations": kept.reduce}
    layers = space.stages[space.stage]
    network = PerEdgeSupernet(
        channels, layers, classes, space.nodes, in_channels, form=space.form, **variant
    )
    network.set_skip_dropout(dropout)
    return network


def paired_parameters(fast: Supernet, naive: PerEdgeSupernet) -> list[tuple[Tensor, Tensor]]:
    """Pairs (parameter of mlopt's supernet, of the per-edge one) that mean the same."""

    def zipped(one: nn.Module | None, two: nn.Module) -> list[tuple[Tensor, Tensor]]:
        return list(zip(one.parameters() if one else (), two.parameters(), strict=True))

    pairs = zipped(fast.stem, naive.stem0) + zipped(fast.second_stem, naive.stem1)
    pairs += zipped(fast.classifier, naive.classifier)
    for a, b in zip(fast.cells, naive.cells, strict=True):
        pairs += zipped(a.preprocess0, b.pre0) + zipped(a.preprocess1, b.pre1)
        first = 0  # source of the group's first edges
        for group in a.groups:
            modules = {
                "skip_connect": group.skips,
                "sep_conv_3x3": group.sep3,
                "sep_conv_5x5": group.sep5,
                "dil_conv_3x3": group.dil3,
                "dil_conv_5x5": group.dil5,
                "auxiliary": getattr(group, "auxiliary", None),
            }
            every = range(group.sources * group.targets)
            for name, module in modules.items():
                held = group.edges_with.get(name, every) if module else ()
                for k, edge in enumerate(held):
                    node = b.nodes - group.targets + edge % group.targets
                    source = first + edge // group.targets
                    theirs = b.edges[node * (node + 3) // 2 + source]
                    theirs = theirs.auxiliary if name == "auxiliary" else theirs.ops[name]
                    ours = [m[k] for m in module.modules() if isinstance(m, nn.ParameterList)]
                    pairs += zip(ours, theirs.parameters(), strict=True)
            first += group.sources
    return pairs


@torch.no_grad()
def twin(fast: Supernet, space: SearchSpace) -> PerEdgeSupernet:
    """The per-edge supernet with the parameters of mlopt's, which the space has made."""
    naive = per_edge(space, fast.classifier.out_features, fast.stem[0].in_channels)
    pairs = paired_parameters(fast, naive)
    assert len(pairs) == len(list(fast.parameters())) == len(list(naive.parameters()))
    for ours, theirs in pairs:
        theirs.copy_(ours)
    return naive

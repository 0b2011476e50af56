"""Search spaces at small sizes, and each beside its per-edge definition."""

from __future__ import annotations

import torch
from nas.reference import paired_parameters, per_edge

from mlopt.nas import DARTS, PCDARTS, PDARTS, DARTSMinus
from mlopt.nas.architecture import CellOperations

FIVE = ("max_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3")
THREE = ("skip_connect", "sep_conv_3x3", "dil_conv_3x3")


def second(operations=FIVE):
    return PDARTS(stage=1, kept=CellOperations((operations,) * 14, (operations,) * 14))


def third(operations=THREE):
    return PDARTS(stage=2, kept=CellOperations((operations,) * 14, (operations,) * 14))


def ragged(nodes=2, form="cifar", add_layers=(0, 2, 3)):
    """The second stage of P-DARTS; its architecture was drawn, so that edges differ."""
    first = PDARTS(
        channels=2,
        layers=1,
        nodes=nodes,
        form=form,
        add_layers=add_layers,
        skip_dropout=(0, 0, 0.4),
    )
    return first.following(drawn(first.architecture()))


def few():
    """The third stage: three operations are left on each edge, on some without a pooling."""
    return ragged().following(drawn(ragged().architecture()))


@torch.no_grad()
def drawn(a, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a.double()
    for p in a.parameters():
        p.copy_(torch.randn(p.shape, generator=generator))
    return a


SMALL = {"channels": 4, "layers": 3, "nodes": 2}
TINY = {
    "darts": DARTS(**SMALL),
    "pc-darts": PCDARTS(**SMALL, partial=2),
    "pc-darts, whole": PCDARTS(**SMALL, partial=1),
    "pc-darts, narrow": PCDARTS(channels=4, layers=3, nodes=3),
    "darts-minus": DARTSMinus(**SMALL),
    "darts-minus, conv": DARTSMinus(**SMALL, auxiliary="conv"),
    "p-darts": PDARTS(**SMALL, skip_dropout=(0, 0, 0)),
    "p-darts, second": ragged(3),
    "darts, imagenet": DARTS(**SMALL, form="imagenet"),
    "pc-darts, imagenet": PCDARTS(**SMALL, form="imagenet"),
    "darts-minus, imagenet": DARTSMinus(**SMALL, form="imagenet"),
    "p-darts, imagenet": ragged(2, "imagenet"),
}


def twins(space, seed=0):
    """Supernet and per-edge one with equal weights, pairs of these, an architecture, images."""
    torch.manual_seed(seed)
    fast = space.supernet(5, in_channels=1).double()
    naive = per_edge(space, 5, in_channels=1).double()
    pairs = paired_parameters(fast, naive)
    assert len(pairs) == len(list(fast.parameters())) == len(list(naive.parameters()))
    with torch.no_grad():
        for ours, theirs in pairs:
            ours.copy_(torch.randn_like(ours) * ours[0].numel() ** -0.5)
            theirs.copy_(ours)
    size = 8 if space.form == "cifar" else 32
    x = torch.randn(3, 1, size, size, dtype=torch.float64, requires_grad=True)
    return fast, naive, pairs, drawn(space.architecture()), x


# One cell that reduces: edges of stride 2 leave its inputs, and one of stride 1 its first node.
CELL = {"layers": 1, "nodes": 2}
VARIANTS = {
    "pc-darts, imagenet": PCDARTS(channels=4, **CELL, form="imagenet"),
    "darts-minus": DARTSMinus(channels=4, **CELL),
    "darts-minus, conv": DARTSMinus(channels=4, **CELL, auxiliary="conv"),
    "p-darts": ragged(add_layers=(0, 0, 0)),
    "p-darts, dropout": PDARTS(channels=2, **CELL, skip_dropout=(0.5, 0, 0)),
}

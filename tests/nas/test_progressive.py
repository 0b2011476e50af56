"""P-DARTS' rules: what leaves after a stage, the final cells, the restriction of skips."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mlopt._errors import SettingsError
from mlopt.nas import PRIMITIVES
from mlopt.nas.genotypes import _cell
from mlopt.nas.progressive import drop, progressive_genotype

EDGES = 14


def table(stage: int, kept: int, wave) -> Tensor:
    """The softmax of wave(stage + kept * edge + column), in float32 as the published search."""
    index = kept * torch.arange(EDGES)[:, None] + torch.arange(kept)
    return wave(stage + index.double()).float().softmax(dim=1)


def indices(operations) -> list[str]:
    return ["".join(str(PRIMITIVES.index(name)) for name in names) for names in operations]


# Operations that every edge keeps, as indices: the published code at the tables above.
KEPT = {
    ("sin", 1): "01267 04567 12345 01237 01567 03456 12347 01267 01567 23456 12347 01267 04567 "
    "12345",
    ("cos", 1): "04567 23456 01237 01567 03456 12345 01267 01567 23456 12347 01267 04567 23456 "
    "01237",
    ("sin", 2): "017 045 234 237 067 036 123 126 567 256 127 012 456 345",
    ("cos", 2): "067 236 012 156 456 145 017 015 345 347 067 047 234 123",
}


def last_stage(wave: str) -> tuple[Tensor, tuple[tuple[str, ...], ...]]:
    """The probabilities and operations of stage 3, reached through the two stages before it."""
    function = getattr(torch, wave)
    operations = (PRIMITIVES,) * EDGES
    for stage, count in ((1, 3), (2, 2)):
        operations = drop(table(stage, len(operations[0]), function), operations, count)
        assert indices(operations) == KEPT[wave, stage].split()
    return table(3, 3, function), operations


def test_the_published_pipeline_stage_by_stage():
    normal, normal_operations = last_stage("sin")
    reduce, reduce_operations = last_stage("cos")
    found = progressive_genotype(normal, reduce, normal_operations, reduce_operations, 4)
    assert found.normal == _cell("mp@0 s5@1 | ap@0 d5@1 | mp@1 d3@2 | d3@0 ap@2")
    assert found.reduce == _cell("d5@0 ap@1 | ap@0 d3@2 | mp@2 sk@3 | ap@3 sk@4")
    assert found.normal_concat == found.reduce_concat == (2, 3, 4, 5)
    # The normal cell has no skip connection: the restriction has nothing to do, however hard.
    for most in (0, 8, None):
        again = progressive_genotype(
            normal, reduce, normal_operations, reduce_operations, 4, most_skips=most
        )
        assert again == found


@pytest.mark.parametrize(("wave", "chosen"), [("sin", "15276616561245"), ("cos", "72256471346723")])
def test_the_operation_of_each_edge_in_the_last_stage(wave, chosen):
    probabilities, operations = last_stage(wave)
    for edge, index in enumerate(chosen):  # alone in a cell of one node, both edges are kept
        row, names = probabilities[[edge, edge]], [operations[edge]] * 2
        found = progressive_genotype(row, row, names, names, 1, most_skips=None)
        name = PRIMITIVES[int(index)]
        assert found.normal == found.reduce == ((name, 0), (name, 1)), edge


def test_drop_takes_none_like_the_others_and_of_equals_the_earlier():
    operations = (("none", "a", "b", "c"), ("a", "b", "c", "d"), ("d", "c", "b", "none"))
    p = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25], [0.1, 0.3, 0.3, 0.3]])
    assert drop(p, operations, 2) == (("none", "a"), ("c", "d"), ("b", "none"))
    assert drop(p, operations, 0) == operations


# The last stage by hand: two nodes, five edges. Edges 0, 1 feed node 2; 2, 3, 4 feed node 3.

S, N = "skip_connect", "none"
M, A, D = "max_pool_3x3", "avg_pool_3x3", "dil_conv_3x3"


def final(rows, names, most_skips=None):
    """The normal cell of the rows, as 'operation@source'; reduction cells are never restricted."""
    p = torch.tensor(rows, dtype=torch.float64)
    found = progressive_genotype(p, p, names, names, 2, most_skips)
    free = progressive_genotype(p, p, names, names, 2, None)
    assert found.reduce == free.reduce == free.normal
    return [f"{name}@{source}" for name, source in found.normal]


def test_none_counts_neither_as_operation_nor_as_strength():
    rows = [[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.9, 0.06, 0.04], [0.2, 0.7, 0.1], [0.5, 0.3, 0.2]]
    names = [(N, M, D), (N, S, D), (N, M, D), (M, S, D), (N, S, D)]
    # Edge 2 has the largest entry of node 3, on none: 0.06 is the weakest strength.
    assert final(rows, names) == [f"{D}@0", f"{S}@1", f"{S}@1", f"{S}@2"]


def test_edges_come_by_source_and_the_later_of_equals_stays():
    rows = [[0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0.6, 0.2, 0.2], [0.6, 0.3, 0.1], [0.2, 0.6, 0.2]]
    names = [(M, A, D)] * 5
    assert final(rows, names) == [f"{M}@0", f"{A}@1", f"{M}@1", f"{A}@2"]


ROWS = [
    [0.30, 0.40, 0.30],  # a skip connection of 0.40, then dil_conv
    [0.10, 0.60, 0.30],  # ... of 0.60, then dil_conv
    [0.20, 0.45, 0.35],  # ... of 0.45, then dil_conv of 0.35
    [0.05, 0.55, 0.40],  # ... of 0.55, then dil_conv of 0.40
    [0.38, 0.37, 0.25],  # no skip connection: avg_pool
]
NAMES = [(M, S, D)] * 4 + [(A, M, D)]


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (None, f"{S}@0 {S}@1 {S}@0 {S}@1"),
        (4, f"{S}@0 {S}@1 {S}@0 {S}@1"),
        (3, f"{D}@0 {S}@1 {S}@0 {S}@1"),  # 0.40 goes: the edge takes its last best
        # 0.45 goes: with dil_conv of 0.35 the edge is weaker than avg_pool of edge 4
        (2, f"{D}@0 {S}@1 {S}@1 {A}@2"),
        # 0.55 goes: with dil_conv of 0.40 the edge stays, and edge 2 does not come back
        (1, f"{D}@0 {S}@1 {D}@1 {A}@2"),
        (0, f"{D}@0 {D}@1 {D}@1 {A}@2"),
    ],
)
def test_restriction_of_skips_by_hand(most, expected):
    assert final(ROWS, NAMES, most) == expected.split()


def test_a_removal_can_bring_another_skip_into_the_cell():
    """Node 3 drops edge 4's skip of 0.40 and takes edge 2, whose skip of 0.39 goes next."""
    rows = [[0.9, 0.05, 0.05], [0.9, 0.05, 0.05], [0.33, 0.39, 0.28], [0.2, 0.7, 0.1],
            [0.3, 0.4, 0.3]]  # fmt: skip
    names = [(M, A, D)] * 2 + [(M, S, D)] * 3
    assert final(rows, names) == [f"{M}@0", f"{M}@1", f"{S}@1", f"{S}@2"]
    assert final(rows, names, 1) == [f"{M}@0", f"{M}@1", f"{M}@0", f"{S}@1"]


def test_of_equal_skips_the_earlier_goes_first():
    rows = [[0.3, 0.4, 0.3]] * 2 + [[0.9, 0.05, 0.05]] * 3
    assert final(rows, [(M, S, D)] * 5, 1) == [f"{D}@0", f"{S}@1", f"{M}@1", f"{M}@2"]


def test_a_cell_of_skips_alone_cannot_be_restricted():
    rows = [[0.6, 0.4]] * 5
    names = [(N, S)] * 5
    assert final(rows, names, None) == [f"{S}@0", f"{S}@1", f"{S}@1", f"{S}@2"]
    with pytest.raises(SettingsError, match=r"normal edges \[0, 1, 3, 4\].*most_skips is 2"):
        final(rows, names, 2)
    names[4] = (M, S)  # one edge has another operation: three skips can be reached, two cannot
    assert final(rows, names, 3) == [f"{S}@0", f"{S}@1", f"{S}@1", f"{M}@2"]
    with pytest.raises(SettingsError, match=r"normal edges \[0, 1, 3\]"):
        final(rows, names, 2)


def test_bad_input():
    p = torch.full((5, 3), 1 / 3)
    names = ((M, S, D),) * 5
    with pytest.raises(SettingsError, match="count must be 0 to 2 of 3, got 3"):
        drop(p, names, 3)
    with pytest.raises(SettingsError, match=r"shape \(5, 3\).*\[3, 3, 3, 3\] names"):
        drop(p, names[:4], 1)
    with pytest.raises(SettingsError, match=r"shape \(5,\)"):
        drop(p[:, 0], names, 1)
    with pytest.raises(SettingsError, match="reduce: 2 nodes have 5 edges, got 2"):
        progressive_genotype(p, p[:2], names, names[:2], 2)
    with pytest.raises(SettingsError, match="normal: edge 1 has no operation but 'none'"):
        progressive_genotype(p[:, :1], p[:, :1], ((M,), (N,)) + ((M,),) * 3, ((M,),) * 5, 2)
    with pytest.raises(SettingsError, match="most_skips must be at least 0"):
        progressive_genotype(p, p, names, names, 2, -1)

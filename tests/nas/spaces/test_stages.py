"""The stages of P-DARTS: what edges keep, what the supernet grows to, the last cell."""

from __future__ import annotations

import dataclasses
import json

import torch
from compare import exact, near, rounding
from nas.reference import fill_architecture
from nas.space_cases import THREE, drawn, ragged, second

from mlopt.nas import DARTS, PCDARTS, PDARTS, PRIMITIVES, DARTSMinus
from mlopt.nas.architecture import CellOperations
from mlopt.nas.genotypes import _cell

AFTER = {  # kept operations of the edges, by index; normal, then reduce
    1: (
        "01267 04567 12345 01237 01567 03456 12347 01267 01567 23456 12347 01267 04567 12345",
        "04567 23456 01237 01567 03456 12345 01267 01567 23456 12347 01267 04567 23456 01237",
    ),
    2: (
        "017 045 234 237 067 036 123 126 567 256 127 012 456 345",
        "067 236 012 156 456 145 017 015 345 347 067 047 234 123",
    ),
}


def test_stages():
    space = PDARTS()
    assert (space.stages, space.stage) == ((5, 11, 17), 0)
    assert DARTS(layers=4).stages == PCDARTS(layers=4).stages == DARTSMinus(layers=4).stages == (4,)
    for stage, expected in AFTER.items():
        a = fill_architecture(space.architecture(), stage)
        space = space.following(a)
        assert space.stage == stage
        indices = [
            " ".join("".join(str(PRIMITIVES.index(name)) for name in edge) for edge in kind)
            for kind in space.kept
        ]
        assert indices == list(expected)
    a = fill_architecture(space.architecture(), 3)
    assert space.following(a) is None
    genotype = space.derive(a)
    assert genotype.normal == _cell("mp@0 s5@1 | ap@0 d5@1 | mp@1 d3@2 | d3@0 ap@2")
    assert genotype.reduce == _cell("d5@0 ap@1 | ap@0 d3@2 | mp@2 sk@3 | ap@3 sk@4")


def test_a_stage_can_be_written_and_read():
    space = second()
    read = PDARTS(**json.loads(json.dumps(dataclasses.asdict(space))))
    assert read == space
    assert hash(read) == hash(space)
    read.following(space.architecture())


def test_stages_of_the_supernet():
    space = dataclasses.replace(second(), channels=2, add_width=(0, 4, 9))
    network = space.supernet(10)
    assert len(network.cells) == 11
    assert [i for i, cell in enumerate(network.cells) if cell.reduction] == [3, 7]
    assert network.cells[0].preprocess1.conv.out_channels == 6


def test_architecture_of_a_stage_weights_what_is_kept():
    space = ragged()
    a = space.architecture(torch.Generator().manual_seed(0))
    same = space.architecture(torch.Generator().manual_seed(0))
    assert a.normal.shape == a.reduce.shape == (5, 5)
    assert torch.equal(a.reduce, same.reduce)
    near(a.normal.std(), 1e-3, 4 / (2 * 25) ** 0.5, why="four deviations of a deviation")
    a = drawn(a)
    for kind, names in zip(("normal", "reduce"), space.operations, strict=True):
        rows, alpha = getattr(a(), kind), getattr(a, kind)
        assert rows.shape == (5, 8)
        for row, kept, column in zip(rows, names, alpha.softmax(-1), strict=True):
            # a softmax over five: exponentials, their sum, a quotient
            exact(row[[PRIMITIVES.index(name) for name in kept]], column, rounding(20))
            assert row.count_nonzero() == len(kept)
    assert sum(a.entropy().values()) > 0


def test_few_skips_in_the_normal_cell():
    kept = CellOperations((("none", "skip_connect", "sep_conv_3x3"),) * 14, (THREE,) * 14)
    a = PDARTS(stage=2, kept=kept).architecture()
    with torch.no_grad():
        a.normal.copy_(torch.tensor([0.0, 2.0, 1.0]) * torch.arange(1, 15)[:, None])
        a.reduce.copy_(torch.tensor([2.0, 1.0, 0.0]))
    for most, expected in ((None, 8), (2, 2), (0, 0)):
        genotype = PDARTS(stage=2, kept=kept, most_skips=most).derive(a)
        assert [name for name, _ in genotype.normal].count("skip_connect") == expected
        assert [name for name, _ in genotype.reduce].count("skip_connect") == 8

"""From architecture parameters to a genotype, for the spaces of one stage."""

from __future__ import annotations

import pytest
import torch
from nas.reference import fill_architecture

from mlopt._errors import SettingsError
from mlopt.nas import DARTS, PCDARTS, Architecture, DARTSMinus, derive
from mlopt.nas.genotypes import _cell


@pytest.mark.parametrize("space", [DARTS(), DARTSMinus()])
def test_derivation_of_the_reference_point(space):
    genotype = space.derive(fill_architecture(space.architecture()))
    assert genotype.normal == _cell("s5@1 d5@0 | sk@0 ap@1 | sk@1 s5@0 | s3@0 sk@4")
    assert genotype.reduce == _cell("s3@1 s5@0 | s5@2 ap@0 | sk@0 s3@3 | s3@3 ap@0")
    assert genotype.normal_concat == genotype.reduce_concat == (2, 3, 4, 5)


def test_derivation_of_the_reference_point_with_weights_of_edges():
    a = fill_architecture(PCDARTS().architecture())
    genotype = derive(a)
    assert genotype.normal == _cell("d5@0 s5@1 | d3@2 sk@0 | sk@1 s5@0 | s5@3 sk@4")
    assert genotype.reduce == _cell("s5@0 s3@1 | s5@2 d3@1 | sk@0 mp@1 | s5@2 d5@1")
    with torch.no_grad():
        a.normal_edges.zero_()  # equal within each node: DARTS' rule is left
        a.reduce_edges.zero_()
    assert derive(a) == derive(fill_architecture(Architecture()))


def test_weights_of_edges_decide_between_edges_and_not_between_operations():
    a = PCDARTS(nodes=2).architecture()
    with torch.no_grad():
        a.normal.zero_()
        a.normal[:, 3] = torch.tensor([1.0, 1.0, 2.0, 2.0, 2.0])
        a.normal_edges.copy_(torch.tensor([0.0, 0.5, -3.0, 0.0, 1.0]))
    assert derive(a).normal == _cell("sk@1 sk@0 | sk@2 sk@1")


def test_derivation_breaks_ties_downwards():
    a = Architecture()
    with torch.no_grad():
        a.normal.zero_()
        a.reduce.zero_()
        a.reduce[:, 4] = 1
        a.reduce[4, 4] = 2  # node 3, from state 2
    genotype = derive(a)
    assert genotype.normal == (("max_pool_3x3", 0), ("max_pool_3x3", 1)) * 4
    assert genotype.reduce[2:4] == (("sep_conv_3x3", 2), ("sep_conv_3x3", 0))


def test_none_counts_through_the_normalisation_only():
    a = Architecture(nodes=2)
    with torch.no_grad():
        a.normal.zero_()
        a.normal[2:, 0] = torch.tensor([0.0, 9.0, 0.0])  # node 3: state 1 is nearly all 'none'
        a.normal[2:, 5] = 1
    assert derive(a).normal[2:] == (("sep_conv_5x5", 0), ("sep_conv_5x5", 2))


def test_derivation_refuses_an_operation_without_a_network():
    with pytest.raises(SettingsError, match="names no operation: 'noise'"):
        derive(Architecture(operations=["none", "noise"]))

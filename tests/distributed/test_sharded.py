"""Sharded variables: N ranks give what one process gives with N parts."""

from __future__ import annotations

import pytest
from distributed.rank_graphs import CASES, GRAPHS

LAW = 1e-12
#: What is asked in every run; all the rest is slow.
FEW = [
    ("lfm-cw", "exact"), ("lfm-cw", "central"), ("lfm-cw", "implicit"), ("sgl", "unrolled"),
    ("nested", "exact"), ("game", "implicit"), ("stack", "central"), ("nested", "nystrom"),
]  # fmt: skip


@pytest.mark.parametrize(("graph", "method"), [c for c in FEW if c in CASES])
def test_sharded_variables_by_rows(graph, method, two):
    two("distributed.sharded_laws:sharded_law", graph, method, "plain", LAW)


def test_sharded_variables_with_layers_of_batches(two):
    two("distributed.sharded_laws:sharded_law", "lfm-cw", "central", "batch norm", LAW)
    two("distributed.sharded_laws:sharded_law", "lfm-cw", "exact", "dropout", LAW)


@pytest.mark.slow
@pytest.mark.parametrize("graph", GRAPHS)
def test_sharded_variables_by_every_method(graph, two):
    for method in (m for g, m in CASES if g == graph):
        two("distributed.sharded_laws:sharded_law", graph, method, "plain", LAW)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["batch norm", "dropout"])
def test_sharded_variables_with_every_layer_of_batches(layer, two):
    for graph, method in CASES:
        if method in ("exact", "central", "implicit", "joint"):
            two("distributed.sharded_laws:sharded_law", graph, method, layer, LAW)


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["lfm-cw", "nested"])
def test_three_ranks_of_which_some_have_no_rows(graph, three):
    for method in ("exact", "central", "unrolled", "implicit"):
        three("distributed.sharded_laws:sharded_law", graph, method, "plain", LAW)

"""The rank law: N ranks give what one rank gives whose batches are taken in N parts."""

from __future__ import annotations

import pytest
from distributed.rank_graphs import CASES, GRAPHS

#: Asked for by the law. Three ranks are added up in another order than three parts.
LAW = 1e-12
SEEDS = range(50)
BLOCK = 10
#: Of each kind of method one, and what is evaluated anew in parts: a signal that is unrolled.
SOME = [
    (graph, method)
    for graph, method in CASES
    if (method in ("exact", "central", "implicit", "joint") and graph != "stack")
    or (graph, method) == ("sgl", "unrolled")
]


@pytest.mark.parametrize("graph", GRAPHS)
def test_two_ranks_by_every_method_to_the_bit(graph, two):
    few = ("exact", "central", "unrolled", "implicit")  # a stack's members go one by one, as SGL's
    for method in (m for g, m in CASES if g == graph and (graph != "stack" or m in few)):
        two("distributed.laws:graph_law", graph, method, "plain", 0.0)


@pytest.mark.parametrize("layer", ["batch norm", "dropout"])
def test_two_ranks_with_layers_of_batches_to_the_bit(layer, two):
    for graph, method in SOME:
        two("distributed.laws:graph_law", graph, method, layer, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["batch norm", "dropout"])
def test_two_ranks_with_layers_of_batches_by_every_method(layer, two):
    for graph, method in CASES:
        # With BatchNorm the curvature of LFM-CW is too large for the series at its own scale.
        if (layer, graph, method) != ("batch norm", "lfm-cw", "neumann, by its own scale"):
            two("distributed.laws:graph_law", graph, method, layer, 0.0)


@pytest.mark.parametrize("graph", ["lfm-cw", "nested"])
def test_three_ranks_with_uneven_batches(graph, three):
    for method in ("exact", "central", "unrolled"):
        three("distributed.laws:graph_law", graph, method, "plain", LAW, 10)


TOLD = [
    ("lfm-cw", "frozen"), ("lfm-cw", "exact"), ("lfm-cw", "central"), ("lfm-cw", "implicit"),
    ("lfm-cw", "unrolled"), ("nested", "exact"), ("game", "implicit"), ("stack", "central"),
]  # fmt: skip


@pytest.mark.parametrize(("graph", "method"), TOLD)
def test_what_goes_between_ranks_is_what_the_plan_says(graph, method, two):
    for planned, counted, text in two("distributed.laws:planned_and_counted", graph, method):
        assert planned == counted
        assert "between 2 ranks" in text
        if graph == "lfm-cw" and method in ("frozen", "central"):
            asked = ("gradients", "cotangents", "decision")
            assert sum(counted.get(what, (0, 0))[0] for what in asked) <= (
                6 if method == "frozen" else 9
            )


@pytest.mark.parametrize("first", range(0, 20, BLOCK))
def test_two_ranks_on_random_graphs_to_the_bit(first, two):
    for seed in range(first, first + BLOCK):
        two("distributed.laws:random_graph", seed, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(20, len(SEEDS), BLOCK))
def test_two_ranks_on_more_random_graphs_to_the_bit(first, two):
    for seed in range(first, first + BLOCK):
        two("distributed.laws:random_graph", seed, 0.0)


def test_three_ranks_on_random_graphs(three):
    for seed in range(5):
        three("distributed.laws:random_graph", seed, LAW)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(5, len(SEEDS), 9))
def test_three_ranks_on_more_random_graphs(first, three):
    for seed in range(first, min(first + 9, len(SEEDS))):
        three("distributed.laws:random_graph", seed, LAW)

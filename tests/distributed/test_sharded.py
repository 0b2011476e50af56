"""Sharded variables: N ranks give what one process gives with N parts."""

from __future__ import annotations

import pytest
from distributed.rank_graphs import CASES, GRAPHS

pytestmark = pytest.mark.usefixtures("shards")

LAW = 1e-12
#: What is asked in every run; all the rest is slow.
FEW = [
    ("lfm-cw", "exact"), ("lfm-cw", "central"), ("sgl", "sama"), ("nested", "unrolled"),
    ("nested", "exact"), ("game", "implicit"), ("stack", "central"), ("nested", "nystrom"),
]  # fmt: skip


@pytest.mark.parametrize(("graph", "method"), [c for c in FEW if c in CASES])
def test_sharded_variables_by_rows(graph, method, two):
    two("distributed.sharded_laws:sharded_law", graph, method, "plain", LAW)


def test_sharded_variables_with_layers_of_batches(two):
    two("distributed.sharded_laws:sharded_law", "nested", "central", "batch norm", LAW)
    two("distributed.sharded_laws:sharded_law", "nested", "exact", "dropout", LAW)


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


def test_sharded_variables_of_random_graphs(two):
    for seed in (3, 14, 22):  # quick ones
        two("distributed.sharded_laws:random_law", seed, LAW)


@pytest.mark.slow
def test_sharded_variables_of_all_random_graphs(two):
    for seed in range(50):
        two("distributed.sharded_laws:random_law", seed, LAW)


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["lfm-cw", "nested"])
def test_three_ranks_of_which_some_have_no_rows(graph, three):
    for method in ("exact", "central", "unrolled", "implicit"):
        three("distributed.sharded_laws:sharded_law", graph, method, "plain", LAW)


@pytest.mark.parametrize("names", [["SGD", "Adam", "Adagrad"]])
def test_optimizers_step_rows_as_they_step_the_whole(names, two):
    two("distributed.sharded_cases:optimizers", names)


@pytest.mark.slow
def test_every_optimizer_that_steps_numbers_steps_rows(two, three):
    names = ["AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "RMSprop", "ASGD", "Rprop"]
    two("distributed.sharded_cases:optimizers", names)
    three("distributed.sharded_cases:optimizers", names)


def test_outside_of_steps_all_is_as_fully_shard_has_it(two):
    if not all(two("distributed.sharded_cases:computes")):
        pytest.skip("this torch's fully_shard does not compute here outside of an engine")
    two("distributed.sharded_cases:outside")


def test_a_step_that_fails_leaves_shards_as_they_were(two):
    two("distributed.sharded_cases:undone")
    two("distributed.sharded_cases:overflow")


def test_an_interrupt_leaves_shards_in_their_places(two):
    two("distributed.sharded_cases:interrupted")


def test_ranks_decide_on_the_host(two):
    assert two("distributed.sharded_cases:decision") == [5, 5]


def test_what_is_computed_again_reads_the_same(two):
    two("distributed.sharded_cases:recomputed")


def test_few_whole_tensors_are_there_at_a_time(two):
    for method in ("exact", "central", "unrolled"):
        assert two("distributed.sharded_cases:most_wholes", method, 8)[0] <= 4


def test_ranks_that_read_in_another_order_are_told_so(two):
    for error in two("distributed.sharded_cases:other_order"):
        assert "RankError: The ranks have read other sharded parameters" in error, error


def test_what_was_computed_is_let_go(two):
    two("distributed.sharded_cases:freed")


def test_ranks_and_parts_together(two):
    two("distributed.sharded_cases:in_parts")


def test_functions_that_all_ranks_compute_alike(two):
    two("distributed.sharded_cases:without_batches", True)


@pytest.mark.parametrize(("graph", "method"), [("lfm-cw", "central"), ("nested", "exact")])
def test_what_goes_between_ranks_is_what_the_plan_says(graph, method, two):
    for planned, counted in two("distributed.sharded_cases:planned", graph, method):
        assert planned == counted
        assert planned["shards"][0] > 0


REFUSED = {
    "hybrid": "a mesh of 2 dimensions",
    "columns": "only Shard(0) is served",
    "tensor": "no sharded variable",
    "no ranks": "this engine has none",
    "policy": "mp_policy=",
    "output": "mp_policy=",
    "offload": "offload_policy=",
    "tied": "is tied to w.0.weight",
    "optimizer": "a Adafactor, is not known to step each number",
    "step hook": "has step hooks",
    "hook": "has a hook on its gradient",
    "compile": "compile= takes functions",
    "fp16": "precision='fp16'",
    "audit": "audit: w is sharded",
    "plan": "variables are sharded over 2 ranks",
    "functional": "torch.func.functional_call",
    "torch.func": "fit: takes gradients by torch.func",
    "verify": "verify_resume: variables are sharded",
    "method": "a method, product or solver of your own",
    "penalty": "bome: w is sharded",
    "best": "BestCheckpoint: variables are sharded",
    "moved": "is another one than when the engine was made",
    "empty": "do not have as many parts",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_served_is_refused_by_name(what, two):
    for error in two("distributed.sharded_refusals:refused", what):
        assert REFUSED[what] in error, error

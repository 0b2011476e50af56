"""Levels on ranks of their own give the numbers of one process."""

from __future__ import annotations

from typing import Any

import pytest
from compare import exact
from distributed import homes, meetings
from distributed.laws import same_bits
from distributed.rank_graphs import CASES

import mlopt

HERE = "distributed.homes:"
LAW = 1e-12

#: Every variable on one rank.
ONE: dict[str, dict[str, Any]] = {
    "lfm-cw": {"w1": 0, "g": 1, "h": 1, "w2": 2, "a": 0},
    "sgl": {f"{name}{k}": k for name in "vwa" for k in range(3)}
    | dict.fromkeys(["a0", "a1", "a2"], 0),
    "nested": {"w": 0, "m": 1, "a": 2},
    "game": {"p": 0, "q": 1, "a": 2},
}
#: Some on several, some on all.
SEVERAL: dict[str, dict[str, Any]] = {
    "lfm-cw": {"w1": (0, 1), "g": 1, "h": 2, "w2": (1, 2)},
    "sgl": {"v0": (0, 1), "w0": 0, "v1": 2, "w1": (1, 2), "v2": (0, 1)},
    "nested": {"w": (0, 2), "m": 1},
    "game": {"p": (0, 1), "q": 2},
}
for places in (ONE, SEVERAL):
    places |= {"stack": places["sgl"], "played": places["game"]}
#: On two ranks.
TWO = {"w1": 0, "g": 1, "h": 1, "w2": 0, "a": 1}
FEW = [
    ("lfm-cw", "exact"), ("lfm-cw", "central"), ("lfm-cw", "implicit"), ("lfm-cw", "unrolled"),
    ("sgl", "central"), ("nested", "exact"), ("game", "implicit"),
    ("played", "alternating"),
]  # fmt: skip


def test_each_variable_on_a_rank_of_its_own(three):
    for graph, method in FEW:
        three(HERE + "home_law", graph, method, "plain", ONE[graph], LAW)


def test_homes_of_one_rank_of_two_and_of_all(three):
    for graph, method in FEW:
        three(HERE + "home_law", graph, method, "plain", SEVERAL[graph], LAW)


@pytest.mark.slow
@pytest.mark.parametrize("graph", ONE)
def test_every_method_with_homes(graph, three):
    for method in (m for g, m in CASES if g == graph):
        # A difference of differences has rounding over two radii.
        bound = 1e-10 if (graph, method) == ("nested", "zeroth order") else LAW
        three(HERE + "home_law", graph, method, "plain", ONE[graph], bound)
        three(HERE + "home_law", graph, method, "plain", SEVERAL[graph], bound)


def test_a_rank_alone_computes_what_one_process_computes_to_the_bit(three):
    for layer, method in (("batch norm", "exact"), ("dropout", "exact"), ("dropout", "central")):
        three(HERE + "home_law", "lfm-cw", method, layer, ONE["lfm-cw"], 0.0)


def test_two_ranks_and_fewer_samples_than_they_are(two):
    two(HERE + "home_law", "lfm-cw", "exact", "plain", TWO, LAW, 7)
    two(HERE + "home_law", "sgl", "central", "plain", {"v0": 0, "w0": 1, "v1": 1}, LAW, 1)


@pytest.mark.parametrize(
    "places", [{"w": 2, "v": 1}, {"w": 2}, {"v": 0}, {"w": (1, 2), "v": (0, 1)}]
)
def test_signals_of_rows_and_of_whole_batches(places, three):
    three(HERE + "rows_of_every_kind", places)


@pytest.mark.parametrize(
    ("graph", "method"),
    [("lfm-cw", "central"), ("sgl", "exact"), ("lfm-cw", "implicit"), ("nested", "exact")],
)
def test_what_travels_is_what_the_plan_says(graph, method, three):
    for places in (ONE[graph], SEVERAL[graph]):
        for planned, counted, text in three(HERE + "planned_and_counted", graph, method, places):
            assert planned == counted
            assert "between 3 ranks" in text


@pytest.mark.parametrize(("run", "method", "calls"), [
    (0, mlopt.OneStep(), 1),
    (1, mlopt.OneStep(product=mlopt.Central()), 3),
])  # fmt: skip
def test_levels_on_different_ranks_are_computed_at_the_same_time(run, method, calls, three):
    for rank, found in enumerate(three("distributed.meetings:learners_meet", method, run)):
        own = [n for k in range(3) for n in [calls if k == rank else 0]]
        assert found == [*own, *[int(k == rank) for k in range(3)], *own]


@pytest.mark.parametrize("own", [False, True])
def test_what_a_solver_on_one_rank_does_not_stand_is_said_on_all(own, two):
    alone = meetings.bent(None, own)
    assert alone.startswith("NonFiniteError: ")
    assert two("distributed.meetings:bent", 1, own) == [alone, alone]


def test_a_level_that_is_spoilt_is_named_on_all_ranks(two):
    text, values = meetings.spoilt("value", None)
    assert "the loss of second is not finite, the first" in text
    for found, stand in two("distributed.meetings:spoilt", "value", (0, 1)):
        assert found == text.replace("not finite,", "not finite on rank 1,")
        exact(stand, values, LAW, what="what stands")


def test_schedules(three):
    three(HERE + "schedule_law", "sequential", SEVERAL["sgl"])
    three(HERE + "schedule_law", "turns", ONE["sgl"])


@pytest.mark.slow
def test_more_schedules(three):
    for kind in ("sequential", "upper first", "turns", "until"):
        for places in (ONE, SEVERAL):
            three(HERE + "schedule_law", kind, places["sgl"])


def test_parts_and_loaders_that_shuffle(three):
    three(HERE + "parts_law", ONE["lfm-cw"])
    three(HERE + "parts_law", SEVERAL["lfm-cw"])
    three(HERE + "shuffled_law", {"w": 1, "a": 2})


def test_a_run_goes_on_elsewhere(two, tmp_path):
    whole = homes.trained(None, 6, str(tmp_path / "whole"))
    for places in (TWO, {"w2": 1}):
        folder = str(tmp_path / "-".join(places))
        two(HERE + "trained", places, 2, folder)
        two(HERE + "trained", {"w1": 1, "w2": 0}, 4, folder)
        found = homes.trained(None, 6, folder)
        exact(found, whole, 1e-9, what=f"{places}")
    first, other = two(HERE + "trained", TWO, 6, str(tmp_path / "again"))
    same_bits(first, other, "the ranks'")


def test_batch_norm_over_all_ranks(three):
    assert three(HERE + "batch_norm_at_home", {"w": 1}) == ["", "", ""]
    assert three(HERE + "batch_norm_at_home", {"w": (0, 1, 2)}, LAW) == ["", "", ""]
    for text in three(HERE + "batch_norm_at_home", {"w": (0, 1)}):
        assert "fit: its BatchNorm takes the samples of all ranks" in text or "RankError" in text


def test_places_that_are_none_are_refused(two):
    for texts in two(HERE + "refusals"):
        for text, words in zip(texts, REFUSED, strict=True):
            assert text.startswith(("GraphError", "DataError"))
            assert words in text


REFUSED = [
    "there is no rank 2 among the 2",
    "there is no rank -1",
    "fit, which is minimised over several variables, in several places: w on rank 0, v on rank 1",
    "a rank is named twice",
    "it has to live somewhere",
    "names the variable u, over which no problem",
    "names 'w', over which no problem",
    "a variable lives on a rank",
    "a variable lives on a rank",
    "this process is alone",
    "must be a dict",
    "must be a dict",
    "Leave out split()",
    "by its DistributedSampler",
    "plan(ranks=5)",
]

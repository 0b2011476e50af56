"""Ranks hold the same, do the same, and say where they do not."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from distributed.agreements import SPLITS
from distributed.laws import same_bits
from distributed.processes import environment, free_port

from mlopt.distributed.imagined import Imagined
from mlopt.distributed.sums import Sums

HERE = "distributed.agreements:"


def test_initial_values_are_those_of_the_first_rank(two):
    first, other = two(HERE + "other_initial_values")
    same_bits(other, first, "the other rank's")


def test_what_differs_between_ranks_is_named(two):
    for text in two(HERE + "other_graphs"):
        assert "GraphError: Engine: rank 1 has other parameters or buffers in fit" in text
    for text in two(HERE + "other_optimizer_states"):
        assert "RankError: fit: ranks 0 and 1 hold other values" in text
        assert "optimizers" in text
    for text in two(HERE + "something_outside"):
        assert "RankError: parted: ranks 0 and 1 hold other values" in text
        assert "mixes samples" in text


def test_a_rank_by_itself(two):
    (a, b), (c, d) = two(HERE + "alone")
    same_bits(a, b, "of the first")
    same_bits(c, d, "of the second")
    assert any(not x.equal(y) for x, y in zip(a, c, strict=True))


def test_some_of_the_ranks(three):
    first, outside, last = three(HERE + "subgroup")
    assert (first, last) == ("", "")
    assert "a group that this process is not in" in outside


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9),
    reason="this torch keeps Python's lock while a group ends, whose threads may wait for it",
)
def test_a_group_that_is_destroyed_is_there_no_more(two):
    for there, text in two("distributed.endings:destroyed"):
        assert not there, "its threads end with it, and not with the interpreter"
        assert "RankError" in text
        assert "has been destroyed" in text


def test_what_a_failed_rank_leaves_under_way_is_let_go_by_nobody(two):
    assert two("distributed.endings:failed") == [True, True]


def test_a_collective_that_nobody_waits_for_is_let_go_when_it_is_done(two):
    assert two("distributed.endings:dropped") == [0, 0]


def test_ranks_that_fail_alike_do_not_wait_for_each_other(two):
    assert two("distributed.endings:failed_alike") == [[], []]


@pytest.mark.usefixtures("on_the_device")
def test_no_thread_of_gloo_holds_tensors_when_the_interpreter_ends():
    port = free_port()
    command = [sys.executable, "-m", "distributed.endings"]
    ranks = [subprocess.Popen(command, env=environment(rank, 2, port)) for rank in range(2)]
    try:
        assert [rank.wait(60) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


@pytest.mark.parametrize("case", [c for c in SPLITS if c not in ("function", "no samples")])
def test_how_a_batch_is_split(case, two):
    two(HERE + "how_a_batch_is_split", case)


def test_a_loader_with_a_distributed_sampler_is_taken_as_it_is(two):
    two("distributed.laws:sampler_law")


def test_parts_of_a_network_that_one_rank_uses(two):
    two(HERE + "parts_of_a_network")


def test_sparse_gradients(two):
    two(HERE + "sparse_gradients")


def test_a_rank_without_samples(two):
    two(HERE + "empty_slices")


def test_files_are_the_first_ranks(two, tmp_path):
    (rows, files), (others, _) = two(HERE + "files_of_a_run", str(tmp_path))
    assert rows == 7, "four steps, two epochs, and the end"
    assert others == 0
    assert files[1:] == ["run/step_0000000002.ckpt", "run/step_0000000004.ckpt"]
    assert files[0].startswith("best/")


def test_one_rank_ends_a_run(two):
    assert two(HERE + "stop_of_one") == [3, 3]


def test_a_signal_that_is_no_row_for_each_sample(two):
    for text in two(HERE + "refused", ""):
        assert 'combine="sum"' in text


def test_an_audit_is_of_one_rank(two):
    assert two(HERE + "audit_of_one", "exact") == [True, True]


@pytest.mark.parametrize(
    ("kind", "method", "says"),
    [
        ("gradient", "frozen", "the gradient of lower is not finite on rank 1, the first of this"),
        ("product", "exact", "the gradient of upper is not finite on rank 1, the first of this"),
        ("product", "implicit", "It began on rank 1."),
    ],
)
def test_what_one_rank_spoils_is_traced_to_it(kind, method, says, two):
    for text in two(HERE + "spoilt_by_one", kind, method):
        assert text.startswith("NonFiniteError")
        assert says in text


def test_only_a_step_that_has_begun_keeps_what_it_gave():
    """Norms of shards are added up by sums that no step ends."""
    sums, bad = Sums(Imagined(2)), torch.tensor([float("nan")])
    sums.now([bad])
    assert sums.first_spoilt() is None
    sums.begin()
    sums.now([torch.ones(2)])
    sums.now([bad])
    assert sums.first_spoilt() == 1
    sums.forget()
    assert sums.first_spoilt() is None

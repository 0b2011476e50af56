"""BatchNorm over all ranks: N ranks give what one rank gives for the joined batch."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from compare import exact, near, rounding
from distributed.batch_norms import KINDS, LAYERS
from distributed.rank_graphs import CASES
from small import F64, seeded
from torch import nn

from mlopt import DataError, SettingsError, nas
from mlopt._batch_norm import Normalisation
from mlopt.distributed import sync_batch_norm
from mlopt.distributed.imagined import Imagined
from mlopt.distributed.shared_sums import Together, together
from mlopt.distributed.sums import Sums
from mlopt.distributed.sync_batch_norm import takes_all_ranks

HERE = "distributed.batch_norms:"
NETWORKS = "distributed.batch_norm_networks:"
#: Differences of values divided by a small radius: their rounding is larger.
SKIPPED = {("nested", "zeroth order")}
#: Of the methods, one of each kind; the others take minutes.
SOME = [
    (g, m)
    for g, m in CASES
    if (g == "lfm-cw" and m in ("exact", "central", "one-sided", "implicit", "unrolled"))
    or (g == "nested" and m in ("exact", "unrolled", "recomputed"))
    or (g == "sgl" and m in ("exact", "gauss-newton"))
    or (g in ("game", "played") and m in ("exact", "joint", "alternating"))
]


@pytest.mark.parametrize(("graph", "method"), SOME)
def test_ranks_normalise_the_joined_batch(graph, method, two):
    two(f"{HERE}joined_law", graph, method)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("graph", "method"), [c for c in CASES if c not in SOME and c not in SKIPPED]
)
def test_ranks_normalise_the_joined_batch_by_every_method(graph, method, two):
    two(f"{HERE}joined_law", graph, method)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "plain"])
def test_layers_of_other_options_in_a_graph(kind, two):
    two(f"{HERE}joined_law", "sgl", "gauss-newton" if kind == "recomputed" else "exact", kind)


def test_three_ranks_with_uneven_samples(three):
    for graph, method in (("lfm-cw", "exact"), ("nested", "exact")):
        three(f"{HERE}joined_law", graph, method, "plain", [5, 2, 3])


@pytest.mark.parametrize("method", ["exact", "gauss-newton"])
def test_cotangents_of_all_ranks_are_enlarged_alike(method, two):
    """As fp16 needs it: a rank's cotangents on its rows are of another length than the other's."""
    two(f"{HERE}joined_law", "sgl", method, "plain", [9, 3], 2.0**12)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_has_the_derivatives_of_the_joined_batch(name, two):
    two(f"{HERE}law_of_layer", name)


def test_a_layer_on_three_ranks(three):
    three(f"{HERE}law_of_layer", "2d")


def test_layers_in_evaluation_mode_ask_nobody(two):
    two(f"{HERE}evaluation_mode_asks_nobody")


def test_one_rank_may_use_a_network_alone(two):
    two(f"{HERE}one_rank_alone_asks_nobody")


def test_batches_that_are_taken_whole_ask_nobody(two):
    two(f"{HERE}whole_batches_ask_nobody")


def test_an_engine_without_ranks_computes_the_same_bits(two):
    assert all(two(f"{HERE}without_ranks_to_the_bit"))


def test_means_far_from_zero_cancel_nothing(two):
    for found, true in two(f"{HERE}far_from_zero"):
        exact(found, true, rounding(8, dtype=torch.float32))


@pytest.mark.parametrize(
    "kind", ["float16", "bfloat16", "bfloat16 by autocast", "bfloat16 network"]
)
def test_low_precisions(kind, two):
    for same_format, found, true in two(f"{HERE}narrow", kind):
        assert same_format
        bound = 2**-9 if kind == "float16" else 2**-6
        near(found, true, bound, why="some roundings of the format")


@pytest.mark.parametrize(
    ("order", "count"),
    [
        # each of two problems: forward, and backward for its own step
        ("first", 2 + 2),
        # besides, the lower gradient is differentiated: through the backward pass and the forward
        ("exact", 2 + 2 + 2),
    ],
)
def test_one_collective_in_each_pass_through_a_layer(order, count, two):
    numbers = 2 * (3 * 4 + 1)  # of each rank: the count, and shift, sum, squares of four channels
    assert two(f"{HERE}collectives", "synced", order) == [(count, count * numbers * 8)] * 2
    assert two(f"{HERE}collectives", "plain", order) == [(0, 0)] * 2


def test_a_rank_without_samples_is_said_on_all(two):
    for said, state in two(f"{HERE}no_samples_for_one"):
        assert state == "nothing has changed"
        assert "lower: its BatchNorm takes the samples of all ranks" in said
        assert "some of the 2 ranks have none of this batch: they have [1, 0]" in said
        assert "drop_last=True" in said


@pytest.mark.parametrize("outside", [False, True])
def test_parts_of_ranks_are_refused(outside, two):
    for said in two(f"{NETWORKS}in_parts", outside):
        assert "lower: its BatchNorm takes the samples of all ranks" in said
        assert "Engine(parts=2)" in said
        assert "Take parts=1" in said


def test_a_supernet(two):
    two(f"{NETWORKS}supernets")


def test_conditional_batch_norm(two):
    two(f"{NETWORKS}conditional")


# By itself.


def network() -> nn.Module:
    return seeded(1, lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(1)))


def test_a_module_stays_what_it_is():
    one, other = network(), network()
    hooked = []
    one[1].register_forward_hook(lambda *_: hooked.append(True))
    assert sync_batch_norm(one) is one
    assert sync_batch_norm(one) is one  # again
    assert list(one.state_dict()) == list(other.state_dict())
    assert isinstance(one[1], nn.BatchNorm2d)
    assert "SyncBatchNorm2d(2, eps=1e-05" in repr(one)
    x = torch.randn(2, 1, 4, 4, dtype=F64)
    assert torch.equal(one(x), other(x))
    assert hooked
    assert all(map(torch.equal, one.buffers(), other.buffers()))
    assert torch.equal(one.eval()(x), other.eval()(x))
    sync_batch_norm(alone := nn.BatchNorm1d(2))
    assert takes_all_ranks(alone)


def test_float16_is_the_same_bits_by_itself():
    one, other = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    x = torch.randn(3, 2, 2, 2).half()
    assert torch.equal(sync_batch_norm(one)(x), other(x))


def test_copies_and_pickles_are_synchronised():
    for layer in map(sync_batch_norm, (nn.BatchNorm2d(2), Normalisation(2))):
        stream = io.BytesIO()
        torch.save(layer, stream)
        stream.seek(0)
        copies = [
            copy.deepcopy(layer),
            pickle.loads(pickle.dumps(layer)),
            torch.load(stream, weights_only=False),
        ]
        for again in copies:
            assert type(again) is type(layer)
            assert takes_all_ranks(again)
            assert list(again.state_dict()) == list(layer.state_dict())


def test_all_layers_of_the_library_are_found():
    net = sync_batch_norm(nas.Supernet(channels=2, layers=2, classes=2, nodes=1))
    names = {type(part).__name__ for part in net.modules() if "Norm" in type(part).__name__}
    assert names == {"SyncBatchNorm2d", "SyncNormalisation"}


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (nn.SyncBatchNorm(2), "1 is a SyncBatchNorm, which has no second derivative"),
        (nn.LazyBatchNorm2d(), "1 is a LazyBatchNorm2d that has seen no input"),
    ],
)
def test_layers_that_cannot_be_changed_are_refused(layer, says):
    with pytest.raises(SettingsError, match=says):
        sync_batch_norm(nn.Sequential(nn.Identity(), layer))


class Own(nn.BatchNorm1d):
    def forward(self, input):
        return (input - input.mean(0)) / input.std(0)


def test_a_layer_of_another_formula_says_so():
    layer = sync_batch_norm(Own(2))
    with together(imagined()), pytest.raises(SettingsError, match="Own does not call"):
        layer(torch.randn(3, 2))


def imagined(refusal=None):
    return Together(Sums(Imagined(2)), refusal)


def test_a_layer_of_no_variable_refuses_too():
    """Which no rank knows before it is called."""
    with (
        together(imagined(DataError("some have none"))),
        pytest.raises(DataError, match="have none"),
    ):
        sync_batch_norm(nn.BatchNorm1d(2))(torch.randn(3, 2))


def test_one_value_on_all_ranks_is_too_few():
    with together(imagined()), pytest.raises(ValueError, match="none on the other ranks"):
        sync_batch_norm(nn.BatchNorm1d(2))(torch.randn(1, 2))

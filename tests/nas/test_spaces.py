"""The four search spaces: sizes, the per-edge definitions, schedules, stages, and bad input."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle

import pytest
import torch
from nas.reference import fill_architecture, paired_parameters, per_edge
from torch import nn

from mlopt._errors import SettingsError
from mlopt.generators import SharedDiscriminator
from mlopt.nas import (
    DARTS,
    PCDARTS,
    PDARTS,
    PRIMITIVES,
    SPACES,
    Architecture,
    DARTSMinus,
    count_parameters,
    edge_convolutions,
)
from mlopt.nas.architecture import CellOperations, count_edges
from mlopt.nas.genotypes import _cell

EXACT = {"rtol": 1e-10, "atol": 1e-10}

FIVE = ("max_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3")
THREE = ("skip_connect", "sep_conv_3x3", "dil_conv_3x3")


def second(operations=FIVE):
    return PDARTS(stage=1, kept=CellOperations((operations,) * 14, (operations,) * 14))


def third(operations=THREE):
    return PDARTS(stage=2, kept=CellOperations((operations,) * 14, (operations,) * 14))


@pytest.mark.parametrize(
    ("space", "classes", "parameters", "tensors", "reported", "architecture"),
    [
        (DARTS(), 10, 1_930_618, 1399, 1_930_618, 224),
        (DARTS(), 100, 1_953_748, 1399, 1_953_748, 224),
        (PCDARTS(), 10, 299_578, 1399, 299_578, 252),
        (PCDARTS(), 100, 322_708, 1399, 322_708, 252),
        (PCDARTS(form="imagenet"), 1000, 956_512, 1406, 956_512, 252),
        (PDARTS(), 10, 1_275_834, 889, 1_275_834, 224),
        (PDARTS(), 100, 1_298_964, 889, 1_298_964, 224),
        (second(), 10, 2_136_474, 1601, 2_136_474, 140),
        (third(), 10, 1_861_402, 1501, 1_861_402, 84),
        (DARTSMinus(), 10, 1_971_578, 1431, 1_930_618, 224),
        (DARTSMinus(), 100, 1_994_708, 1431, 1_953_748, 224),
        (DARTSMinus(auxiliary="conv"), 10, 2_152_826, 1527, 1_930_618, 224),
    ],
)
def test_published_size(space, classes, parameters, tensors, reported, architecture):
    network = space.supernet(classes)
    sizes = [p.numel() for p in network.parameters()]
    assert (sum(sizes), len(sizes)) == (parameters, tensors)
    assert count_parameters(network) == reported
    assert sum(p.numel() for p in space.architecture().parameters()) == architecture


def test_sizes_of_the_cells_with_partial_channels():
    cells = PCDARTS().supernet(10).cells
    sizes = [sum(p.numel() for p in cell.parameters()) for cell in cells]
    assert sizes == [8_592, 8_848, 21_408, 22_944, 24_992, 62_784, 68_928, 77_120]


# Against the per-edge definitions, at small sizes.


def ragged(nodes=2, form="cifar"):
    """The second stage of P-DARTS; its architecture was drawn, so that edges differ."""
    first = PDARTS(
        channels=2, layers=1, nodes=nodes, form=form, add_layers=(0, 2, 3), skip_dropout=(0, 0, 0.4)
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


@pytest.fixture(params=["dense", "separable"])
def _convolutions(request, monkeypatch):
    monkeypatch.setattr(edge_convolutions, "DENSE_CHANNELS", 1000 * (request.param == "dense"))


@pytest.mark.usefixtures("_convolutions")
@pytest.mark.parametrize("name", TINY)
def test_equals_the_per_edge_definition(name):
    fast, naive, pairs, a, x = twins(TINY[name])
    naive.beta = 0.4
    if fast.scheduled is not None:
        fast.begin_epoch(3, 5)
    cotangent = torch.randn(3, 5, dtype=torch.float64)
    for training in (True, False):
        fast.train(training)
        naive.train(training)
        ours, theirs = fast(x, a()), naive(x, a())
        torch.testing.assert_close(ours, theirs, **EXACT)
        shared = [x, *a.parameters()]
        got = torch.autograd.grad(ours, [p for p, _ in pairs] + shared, cotangent)
        want = torch.autograd.grad(theirs, [p for _, p in pairs] + shared, cotangent)
        for g, w in zip(got, want, strict=True):
            atol = 1e-10 * max(w.abs().max().item(), 1e-3)
            torch.testing.assert_close(g, w, rtol=1e-10, atol=atol)


@pytest.mark.parametrize("name", ["pc-darts", "darts-minus, conv", "p-darts, second"])
def test_second_derivatives_equal_the_definitions(name):
    fast, naive, pairs, a, x = twins(TINY[name])
    directions = [torch.randn_like(p) for p, _ in pairs]
    products = []
    for network, side in ((fast, 0), (naive, 1)):
        weights = [pair[side] for pair in pairs]
        first = torch.autograd.grad(network(x, a()).square().sum(), weights, create_graph=True)
        slope = sum((g * d).sum() for g, d in zip(first, directions, strict=True))
        products.append(torch.autograd.grad(slope, [*a.parameters(), *weights]))
    scale = max(w.abs().max().item() for w in products[1])
    for g, w in zip(*products, strict=True):
        torch.testing.assert_close(g / scale, w / scale, **EXACT)


@pytest.mark.parametrize("first", [0, 3, 5])
def test_edges_without_poolings_or_without_convolutions(first):
    kept = CellOperations(*[(PRIMITIVES[first : first + 3],) * 5] * 2)
    tiny = {"channels": 2, "layers": 3, "nodes": 2, "add_layers": (0, 0, 0)}
    space = PDARTS(**tiny, stage=2, kept=kept, skip_dropout=(0, 0, 0))
    fast, naive, _, a, x = twins(space)
    ours, theirs = fast(x, a()), naive(x, a())
    torch.testing.assert_close(ours, theirs, **EXACT)
    got = torch.autograd.grad(ours.sum(), [x, *a.parameters()])
    want = torch.autograd.grad(theirs.sum(), [x, *a.parameters()])
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, **EXACT)


class _Masked(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def forward(self, x):
        return x * self.mask


def test_skip_dropout_equals_masks_written_in():
    space = few()
    assert space.skip_dropout[space.stage] == 0.4
    fast, naive, pairs, a, x = twins(space)
    fast.begin_epoch(2, 10)
    rate = 0.4 * math.exp(-0.4)
    torch.manual_seed(3)
    widths = [8, 4, 2, 2]  # of the cells' outputs: cells 1 and 2 reduce
    for cell, naive_cell, width in zip(fast.cells, naive.cells, widths, strict=True):
        first = 0
        for group in cell.groups:
            for edge in group.edges_with["skip_connect"] if group.stride == 1 else ():
                source, target = divmod(edge, group.targets)
                node = space.nodes - group.targets + target
                operations = naive_cell.edges[count_edges(node) + first + source].ops
                kept = torch.rand(3, group.channels, width, width, dtype=torch.float64) < 1 - rate
                operations["skip_connect"] = _Masked(kept.double() / (1 - rate))
            first += group.sources
    masks = [m for m in naive.modules() if isinstance(m, _Masked)]
    assert len(masks) > 3
    torch.manual_seed(3)
    ours = fast(x, a())
    torch.testing.assert_close(ours, naive(x, a()), **EXACT)
    assert not torch.allclose(ours, fast(x, a()))  # other masks
    shared = [x, *a.parameters()]
    torch.manual_seed(3)
    got = torch.autograd.grad(fast(x, a()).square().sum(), shared)
    want = torch.autograd.grad(naive(x, a()).square().sum(), shared)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, **EXACT)


def test_skip_dropout_rests_in_evaluation_mode():
    fast, naive, _, a, x = twins(few())
    torch.testing.assert_close(fast.eval()(x, a()), naive.eval()(x, a()), **EXACT)


def test_weights_of_edges_are_read_by_every_supernet_and_may_be_left_out():
    fast, _, _, a, x = twins(TINY["pc-darts"])
    plain = fast(x, a()._replace(normal_edges=None, reduce_edges=None))
    ones = torch.ones(5, dtype=torch.float64)
    same = fast(x, a()._replace(normal_edges=ones, reduce_edges=ones))
    torch.testing.assert_close(plain, same, **EXACT)
    darts = DARTS(**SMALL).supernet(5, 1).double()
    w, shares = a(), a().normal_edges
    scaled = w._replace(normal=w.normal * shares[:, None], normal_edges=None)
    torch.testing.assert_close(
        darts(x, w._replace(reduce_edges=None)),
        darts(x, scaled._replace(reduce_edges=None)),
        **EXACT,
    )


# Ways of running them.


@pytest.mark.parametrize("name", TINY)
def test_features_of_the_network_and_of_a_shared_discriminator(name):
    space = TINY[name]
    network, a = space.supernet(5, 1), space.architecture()
    size = 8 if space.form == "cifar" else 32
    x, y = torch.randn(2, 1, size, size), torch.tensor([1, 4])
    h = network.features(x, a())
    assert h.shape == (2, network.out_features)
    torch.testing.assert_close(network.classifier(h), network(x, a()))
    judge = SharedDiscriminator(network, 5)
    logits = torch.cat(judge.pair(x, x.flip(0), y, a()))
    gradients = torch.autograd.grad(logits.square().sum(), list(a.parameters()))
    assert logits.shape == (4,)
    assert all(g.any() for g in gradients)


VARIANTS = {
    "pc-darts, imagenet": PCDARTS(channels=4, layers=1, nodes=2, form="imagenet"),
    "darts-minus": DARTSMinus(channels=4, layers=1, nodes=2),
    "darts-minus, conv": DARTSMinus(channels=4, layers=2, nodes=1, auxiliary="conv"),
    "p-darts": ragged(1),
    "p-darts, dropout": PDARTS(channels=2, layers=2, nodes=1, skip_dropout=(0.5, 0, 0)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_compiles_as_one_graph(name):
    network, a = VARIANTS[name].supernet(3, 1), VARIANTS[name].architecture()
    x = torch.randn(2, 1, 16, 16)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: network(x, a()), backend="eager", fullgraph=True)
    for epoch in (0, 1):  # the number of the epoch is read anew, not compiled in
        network.begin_epoch(epoch, 2)
        torch.manual_seed(0)
        expected = network(x, a())
        torch.manual_seed(0)
        torch.testing.assert_close(compiled(x), expected)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", VARIANTS)
def test_runs_with_stacked_weights(name):
    space = VARIANTS[name]
    networks = [space.supernet(3, 1).double().eval() for _ in range(2)]
    architectures = [drawn(space.architecture(), seed) for seed in range(2)]
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)

    def run(weights, alpha):
        a = torch.func.functional_call(architectures[0], alpha)
        return torch.func.functional_call(networks[0], weights, (x, a))

    stacked = torch.func.vmap(run)(stack(networks), stack(architectures))
    for network, a, y in zip(networks, architectures, stacked, strict=True):
        torch.testing.assert_close(y, network(x, a()), **EXACT)


def stack(modules):
    tensors = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in modules]
    return {name: torch.stack([t[name] for t in tensors]) for name in tensors[0]}


@pytest.mark.parametrize("name", VARIANTS)
def test_memory_format_and_bf16(name):
    space = VARIANTS[name]
    network, a = space.supernet(3, 2).eval(), space.architecture()
    x = torch.randn(2, 2, 16, 16)
    expected = network(x, a())
    with torch.autocast("cpu", torch.bfloat16):
        low = network(x, a())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), expected, rtol=0.05, atol=0.05)
    last = network.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(x, a()), expected)
    last.train()(x, a()).sum().backward()


@pytest.mark.parametrize("name", VARIANTS)
def test_copies_and_state(name):
    space = VARIANTS[name]
    network = space.supernet(3, 1)
    network.begin_epoch(1, 4)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        other.begin_epoch(2, 4)
        if network.scheduled is not None:
            assert other.scheduled != network.scheduled
    again = space.supernet(3, 1)
    again.load_state_dict(network.state_dict())
    assert again.scheduled == network.scheduled


# What follows the epochs.


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("linear", [1, 0.8, 0.5, 0.02]),
        ("cosine", [1, 0.904508, 0.5, 0.000987]),
        ("slow-cosine", [1, 0.951057, 0.707107, 0.031411]),
        ("none", [1, 1, 1, 1]),
    ],
)
def test_decay_of_the_auxiliary_skip(decay, expected):
    space = DARTSMinus(**SMALL, decay=decay)
    network = space.supernet(10)
    assert network.scheduled == 1
    for epoch, beta in zip((0, 10, 25, 49), expected, strict=True):
        network.begin_epoch(epoch, 50, warmup=7)
        assert network.state_dict()["scheduled"].item() == pytest.approx(beta, abs=5e-7)


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (0, [0.096, 0.076, 0.06, 0.1, 0.036788, 0.006081]),
        (1, [0.384, 0.304, 0.24, 0.4, 0.147152, 0.024324]),
        (2, [0.672, 0.532, 0.42, 0.7, 0.257516, 0.042567]),
    ],
)
def test_decay_of_skip_dropout(stage, expected):
    space = [PDARTS(), second(), third()][stage]
    space = dataclasses.replace(space, channels=2, add_layers=(0, 0, 0))
    network = space.supernet(10)
    assert network.scheduled.item() == pytest.approx(space.skip_dropout[stage])
    for epoch, rate in zip((0, 5, 9, 10, 15, 24), expected, strict=True):
        network.begin_epoch(epoch, 25, warmup=10)
        assert network.state_dict()["scheduled"].item() == pytest.approx(rate, abs=5e-7)


def test_nothing_follows_the_epochs_elsewhere():
    for space in (DARTS(**SMALL), PCDARTS(**SMALL), PDARTS(**SMALL, skip_dropout=(0, 0, 0))):
        network = space.supernet(10)
        before = {name: t.clone() for name, t in network.state_dict().items()}
        network.begin_epoch(3, 4, warmup=1)
        assert "scheduled" not in before
        assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


def test_auxiliary_convolutions_begin_as_the_identity():
    conv = DARTSMinus(**SMALL, auxiliary="conv").supernet(5)
    skip = DARTSMinus(**SMALL).supernet(5)
    skip.load_state_dict(conv.state_dict(), strict=False)
    x, a = torch.randn(2, 3, 8, 8), Architecture(2)
    torch.testing.assert_close(conv(x, a()), skip(x, a()))
    skip.begin_epoch(9, 10)
    assert not torch.allclose(conv(x, a()), skip(x, a()))


# Stages.

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
    assert 2e-4 < a.normal.std() < 3e-3
    a = drawn(a)
    for kind, names in zip(("normal", "reduce"), space.operations, strict=True):
        rows, alpha = getattr(a(), kind), getattr(a, kind)
        assert rows.shape == (5, 8)
        for row, kept, column in zip(rows, names, alpha.softmax(-1), strict=True):
            torch.testing.assert_close(row[[PRIMITIVES.index(name) for name in kept]], column)
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


# The interface, and bad input.


def test_spaces_by_name():
    kinds = {"darts": DARTS, "p-darts": PDARTS, "pc-darts": PCDARTS, "darts-minus": DARTSMinus}
    assert kinds == SPACES
    for kind in kinds.values():
        space = kind(channels=4, layers=2, nodes=1)
        a = space.architecture(torch.Generator().manual_seed(5))
        again = space.architecture(torch.Generator().manual_seed(5))
        assert all(map(torch.equal, a.parameters(), again.parameters()))
        assert space.supernet(7, 2)(torch.randn(2, 2, 8, 8), a()).shape == (2, 7)


def test_weights_of_edges():
    a = drawn(PCDARTS(nodes=3).architecture())
    assert [tuple(p.shape) for p in a.parameters()] == [(9, 8), (9, 8), (9,), (9,)]
    names = [name for name, _ in a.named_parameters()]
    assert names == ["normal", "reduce", "normal_edges", "reduce_edges"]
    w = a()
    torch.testing.assert_close(w.reduce, a.reduce.softmax(-1))
    torch.testing.assert_close(w.reduce_edges[2:5], a.reduce_edges[2:5].softmax(0))
    torch.testing.assert_close(w.normal_edges[5:], a.normal_edges[5:].softmax(0))
    assert PCDARTS().architecture().normal_edges.abs().max() < 6e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PCDARTS(channels=6), "PCDARTS: partial must .* divide channels=6, got 4"),
        (lambda: PCDARTS(partial=0), "partial must be at least 1"),
        (lambda: DARTSMinus(decay="fast"), "decay must be one of .*'slow-cosine'.* got 'fast'"),
        (lambda: DARTSMinus(auxiliary="pool"), "auxiliary must be one of .* got 'pool'"),
        (lambda: PDARTS(layers=0), "PDARTS: layers must be at least 1, got 0"),
        (lambda: PDARTS(add_layers=(0, 6)), "one number for each stage"),
        (lambda: PDARTS(drop=(3, 2, 1)), "add up to 7"),
        (lambda: PDARTS(add_width=(0, -1, 0)), "at least 0"),
        (lambda: PDARTS(skip_dropout=(0, 0, 1.0)), "below 1"),
        (lambda: PDARTS(most_skips=-1), "most_skips must be at least 0, or None"),
        (lambda: PDARTS(stage=3), "stage must be 0 to 2, got 3"),
        (lambda: PDARTS(stage=1), "in stage 1 each of the 14 edges has 5 distinct"),
        (lambda: PDARTS(stage=1, kept=second().kept, nodes=3), "each of the 9 edges"),
        (lambda: second(FIVE[::-1]), "in the order of PRIMITIVES"),
        (lambda: second((*FIVE[:4], "noise")), "distinct operations"),
        (lambda: DARTS(form="mnist"), "form must be 'cifar' or 'imagenet', got 'mnist'"),
    ],
)
def test_refuses_settings(make, message):
    with pytest.raises(SettingsError, match=message):
        make()


def test_refuses_the_architecture_of_another_space_or_stage():
    plain, edges = DARTS(nodes=2).architecture(), PCDARTS(nodes=2).architecture()
    for space in (DARTS(nodes=2), DARTSMinus(nodes=2), ragged(), few()):
        with pytest.raises(
            SettingsError, match=r"one of class \w+ with 2 nodes, got EdgeArchitecture with 2"
        ):
            space.derive(edges)
    with pytest.raises(SettingsError, match="class EdgeArchitecture with 2 nodes, got Arch"):
        PCDARTS(nodes=2).derive(plain)
    with pytest.raises(SettingsError, match="with 2 nodes, got Architecture with 4"):
        DARTS(nodes=2).derive(Architecture())
    with pytest.raises(SettingsError, match="other operations than stage 1"):
        ragged().following(few().architecture())
    with pytest.raises(SettingsError, match="this is stage 1 of 3"):
        ragged().derive(ragged().architecture())


@pytest.mark.parametrize(
    ("epoch", "epochs", "warmup"), [(-1, 5, 0), (5, 5, 0), (0, 0, 0), (0, 2, -1)]
)
def test_refuses_an_epoch_that_is_none(epoch, epochs, warmup):
    network = DARTS(channels=2, layers=1, nodes=1).supernet(2)
    with pytest.raises(
        SettingsError, match=rf"got epoch={epoch}, epochs={epochs}, warmup={warmup}"
    ):
        network.begin_epoch(epoch, epochs, warmup)


def test_refuses_weights_of_other_edges():
    network, a = PCDARTS(**SMALL).supernet(5), PCDARTS(**SMALL).architecture()
    with pytest.raises(SettingsError, match=r"weights of edges \(5,\).*and \(14,\)"):
        network(torch.randn(1, 3, 8, 8), a()._replace(normal_edges=torch.ones(14)))

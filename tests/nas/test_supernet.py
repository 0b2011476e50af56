"""The supernet against its definition, edge by edge, and against published sizes."""

from __future__ import annotations

import pytest
import torch
from compare import exact
from grids import thinned
from nas.reference import NaiveSupernet, paired_parameters, supernet_rounding
from torch.nn.functional import cross_entropy

from mlopt._errors import SettingsError
from mlopt.nas import Architecture, Supernet, edge_convolutions

FORWARD, BACKWARD, TWICE = (supernet_rounding(passes, 3, 4, 192) for passes in (1, 3, 7))
"""A derivative takes the pass forward and goes back; the next one goes through both."""


@pytest.mark.parametrize(
    ("channels", "layers", "classes", "parameters", "tensors"),
    [
        (16, 8, 10, 1_930_618, 1399),
        (16, 8, 100, 1_953_748, 1399),
        (8, 5, 10, 394_210, 889),
        (4, 3, 10, 72_854, 548),
    ],
)
def test_published_size(channels, layers, classes, parameters, tensors):
    network = Supernet(channels, layers, classes)
    sizes = [p.numel() for p in network.parameters()]
    assert (sum(sizes), len(sizes)) == (parameters, tensors)


def test_size_of_each_cell():
    sizes = [sum(p.numel() for p in cell.parameters()) for cell in Supernet().cells]
    assert sizes == [45_888, 46_144, 144_000, 137_856, 139_904, 484_608, 460_032, 468_224]


def twins(nodes, channels=2, in_channels=1):
    """The supernet and the naive one with equal weights, an architecture, images and labels."""
    torch.manual_seed(nodes)
    kwargs = {"channels": channels, "layers": 3, "nodes": nodes, "in_channels": in_channels}
    fast, naive = Supernet(**kwargs).double(), NaiveSupernet(**kwargs).double()
    pairs = paired_parameters(fast, naive)
    assert len(pairs) == len(list(fast.parameters())) == len(list(naive.parameters()))
    with torch.no_grad():
        for ours, theirs in pairs:
            theirs.copy_(ours)
    a = Architecture(nodes).double()
    with torch.no_grad():
        a.normal.normal_()
        a.reduce.normal_()
    x = torch.randn(3, in_channels, 8, 8, dtype=torch.float64, requires_grad=True)
    return fast, naive, pairs, a, x, torch.tensor([1, 7, 0])


KERNELS = ["dense", "separable"]
# Four nodes are slow: tests/nas/test_nas_oracles.py compares them with published numbers.
FOUR = [pytest.param(4, kernels, marks=pytest.mark.slow) for kernels in KERNELS]


@pytest.mark.parametrize(("nodes", "kernels"), thinned(2, [1, 2, 3], KERNELS) + FOUR)
def test_equals_the_per_edge_definition(nodes, kernels, monkeypatch):
    monkeypatch.setattr(edge_convolutions, "DENSE_CHANNELS", 1000 * (kernels == "dense"))
    fast, naive, pairs, a, x, _ = twins(nodes)
    with torch.no_grad():
        for _ in range(2):  # move the running statistics
            other = 3 * torch.randn_like(x) + 1
            fast(other, a())
            naive(other, a())
    cotangent = torch.randn(3, 10, dtype=torch.float64)
    for training in (True, False):
        fast.train(training)
        naive.train(training)
        ours, theirs = fast(x, a()), naive(x, a())
        exact(ours, theirs, FORWARD)
        shared = [x, a.normal, a.reduce]
        got = torch.autograd.grad(ours, [p for p, _ in pairs] + shared, cotangent)
        want = torch.autograd.grad(theirs, [p for _, p in pairs] + shared, cotangent)
        exact(got, want, BACKWARD)


@pytest.mark.parametrize(("training", "kernels"), thinned(2, [True, False], KERNELS))
def test_second_derivatives_equal_the_definitions(training, kernels, monkeypatch):
    monkeypatch.setattr(edge_convolutions, "DENSE_CHANNELS", 1000 * (kernels == "dense"))
    fast, naive, pairs, a, x, y = twins(nodes=2)
    products = []
    directions = [torch.randn_like(p) for p, _ in pairs]
    for network, side in ((fast, 0), (naive, 1)):
        network.train(training)
        weights = [pair[side] for pair in pairs]
        first = torch.autograd.grad(cross_entropy(network(x, a()), y), weights, create_graph=True)
        slope = sum((g * d).sum() for g, d in zip(first, directions, strict=True))
        products.append(torch.autograd.grad(slope, [a.normal, a.reduce, *weights]))
    exact(*products, TWICE)


@pytest.mark.parametrize(
    ("size", "in_channels", "layers", "nodes"),
    [(8, 1, 3, 2), (28, 1, 3, 2), (32, 3, 3, 1), (15, 3, 4, 2), (8, 1, 1, 1), (8, 1, 2, 3)],
)
def test_image_sizes(size, in_channels, layers, nodes):
    network = Supernet(4, layers, classes=7, nodes=nodes, in_channels=in_channels)
    a = Architecture(nodes)
    x = torch.randn(2, in_channels, size, size)
    features = network.features(x, a())
    assert features.shape == (2, network.out_features)
    assert torch.equal(network.classifier(features), network(x, a()))
    network(x, a()).square().sum().backward()
    assert all(p.grad is not None for p in [*network.parameters(), a.reduce])


def test_runs_with_swapped_parameters_and_leaves_its_own():
    network, a = Supernet(4, 3, nodes=2), Architecture(2)
    x = torch.randn(2, 3, 8, 8)
    other = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    buffers = {name: b.clone() for name, b in network.named_buffers()}
    before = {name: v.clone() for name, v in network.state_dict().items()}
    swapped = torch.func.functional_call(network, {**other, **buffers}, (x, a()))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    network.load_state_dict({**network.state_dict(), **other})
    assert torch.equal(network(x, a()), swapped)


def test_refuses_an_architecture_of_another_size():
    with pytest.raises(SettingsError, match=r"\(5, 8\).*nodes=2.*\(14, 8\)"):
        Supernet(4, 3, nodes=2)(torch.randn(1, 3, 8, 8), Architecture(4)())


@pytest.mark.parametrize("name", ["channels", "layers", "classes", "nodes", "in_channels"])
def test_refuses_counts_below_one(name):
    with pytest.raises(SettingsError, match=f"{name}=0.*at least 1"):
        Supernet(**{name: 0})

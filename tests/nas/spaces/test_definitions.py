"""The supernets against their per-edge definitions, at small sizes."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from compare import exact, kills
from grids import thinned
from nas.reference import supernet_rounding
from nas.space_cases import SMALL, TINY, few, twins
from torch import nn

from mlopt.nas import DARTS, PDARTS, PRIMITIVES, edge_convolutions
from mlopt.nas.architecture import CellOperations, count_edges

FORWARD, BACKWARD, TWICE = (supernet_rounding(passes, 4, 3, 192) for passes in (1, 3, 7))
"""A derivative takes the pass forward and goes back; the next one goes through both."""


@pytest.mark.parametrize(("name", "kernels"), thinned(2, TINY, ["dense", "separable"]))
def test_equals_the_per_edge_definition(name, kernels, monkeypatch):
    monkeypatch.setattr(edge_convolutions, "DENSE_CHANNELS", 1000 * (kernels == "dense"))
    fast, naive, pairs, a, x = twins(TINY[name])
    naive.beta = 0.4
    if fast.scheduled is not None:
        fast.begin_epoch(3, 5)
    cotangent = torch.randn(3, 5, dtype=torch.float64)
    for training in (True, False):
        fast.train(training)
        naive.train(training)
        ours, theirs = fast(x, a()), naive(x, a())
        exact(ours, theirs, FORWARD)
        shared = [x, *a.parameters()]
        got = torch.autograd.grad(ours, [p for p, _ in pairs] + shared, cotangent)
        want = torch.autograd.grad(theirs, [p for _, p in pairs] + shared, cotangent)
        # BatchNorm divides a kernel of one number out: what cancels there is as large as the
        # derivatives of the other kernels.
        others = statistics.median(float(w.norm()) for w in want)
        for g, w in zip(got, want, strict=True):
            exact(g, w, BACKWARD, scale=others if w.numel() == 1 else None)


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
    exact(*products, TWICE)


@pytest.mark.parametrize("first", [0, 3, 5])
def test_edges_without_poolings_or_without_convolutions(first):
    kept = CellOperations(*[(PRIMITIVES[first : first + 3],) * 5] * 2)
    tiny = {"channels": 2, "layers": 3, "nodes": 2, "add_layers": (0, 0, 0)}
    space = PDARTS(**tiny, stage=2, kept=kept, skip_dropout=(0, 0, 0))
    fast, naive, _, a, x = twins(space)
    ours, theirs = fast(x, a()), naive(x, a())
    exact(ours, theirs, FORWARD)
    # Not of the sum: BatchNorm makes the mean of each feature zero, whatever comes before.
    cotangent = torch.randn_like(ours)
    got = torch.autograd.grad(ours, [x, *a.parameters()], cotangent)
    want = torch.autograd.grad(theirs, [x, *a.parameters()], cotangent)
    exact(got, want, BACKWARD)


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
    exact(ours, naive(x, a()), FORWARD)
    kills(fast(x, a()), ours, FORWARD)  # other masks
    shared = [x, *a.parameters()]
    torch.manual_seed(3)
    got = torch.autograd.grad(fast(x, a()).square().sum(), shared)
    want = torch.autograd.grad(naive(x, a()).square().sum(), shared)
    exact(got, want, BACKWARD)


def test_skip_dropout_rests_in_evaluation_mode():
    fast, naive, _, a, x = twins(few())
    exact(fast.eval()(x, a()), naive.eval()(x, a()), FORWARD)


def test_weights_of_edges_are_read_by_every_supernet_and_may_be_left_out():
    fast, _, _, a, x = twins(TINY["pc-darts"])
    plain = fast(x, a()._replace(normal_edges=None, reduce_edges=None))
    ones = torch.ones(5, dtype=torch.float64)
    same = fast(x, a()._replace(normal_edges=ones, reduce_edges=ones))
    exact(plain, same, FORWARD)
    darts = DARTS(**SMALL).supernet(5, 1).double()
    w, shares = a(), a().normal_edges
    scaled = w._replace(normal=w.normal * shares[:, None], normal_edges=None)
    exact(
        darts(x, w._replace(reduce_edges=None)),
        darts(x, scaled._replace(reduce_edges=None)),
        FORWARD,
    )

"""Numbers of the reference implementations at one fixed point: weights, images and mixtures."""

from __future__ import annotations

import pytest
import torch
from compare import near
from nas.reference import fill, fill_architecture, images
from torch.nn.functional import cross_entropy

from mlopt.nas import GENOTYPES, Architecture, EvaluationNetwork, Supernet

LABELS = torch.tensor([0, 1, 2, 3])


def printed(found, expected):
    """As far as the reference implementations' numbers were printed."""
    near(found, expected, 1e-8, why="nine digits: half a unit of the last is up to 5e-9")


def norms(gradients):
    return [g.norm().item() for g in gradients]


@pytest.fixture
def point():
    """Supernet, its weights, architecture, and the losses of the training and validation batch."""
    network = fill(Supernet(4, 3))
    a = fill_architecture(Architecture())

    def train():
        return cross_entropy(network(images(1), a()), LABELS)

    def valid():
        return cross_entropy(network(images(2), a()), LABELS + 3)

    return network, list(network.parameters()), a, list(a.parameters()), train, valid


def test_training_mode(point):
    network, _, a, alphas, train, _ = point
    logits = network(images(1), a())[0, :4].tolist()
    expected = [1.93923626e-01, 4.02900602e-02, -5.89180001e-01, -2.76961290e-01]
    printed(logits, expected)
    loss = train()
    printed(loss.item(), 2.2393192624)
    gradients = torch.autograd.grad(loss, alphas)
    printed(norms(gradients), [1.0200597745e-01, 1.2895047049e-01])


def test_evaluation_mode(point):
    network, _, a, *_ = point
    network.eval()
    logits = network(images(1), a())[0, :4].tolist()
    expected = [-2.23670745e01, 8.80804673e01, 2.86954073e02, 1.56060096e02]
    printed(logits, expected)


def test_first_order_architect(point):
    _, _, _, alphas, _, valid = point
    gradients = torch.autograd.grad(valid(), alphas)
    printed(norms(gradients), [1.3489810388e-01, 1.2736990363e-01])
    expected = [4.91491734e-03, 2.95247040e-03, 2.15949603e-02]
    printed(gradients[0][0, :3].tolist(), expected)


ETA = 0.025


@pytest.fixture
def stepped(point):
    """Loss and gradients behind a step of the weights, which are put back; differences there."""
    _, weights, _, alphas, train, valid = point
    decay = 3e-4
    start = [w.detach().clone() for w in weights]

    @torch.no_grad()
    def put(direction, scale):
        for w, s, d in zip(weights, start, direction, strict=True):
            w.copy_(s + scale * d)

    g = torch.autograd.grad(train(), weights)
    put([d + decay * s for d, s in zip(g, start, strict=True)], -ETA)
    loss = valid()
    direct_and_v = torch.autograd.grad(loss, alphas + weights)
    direct, v = direct_and_v[:2], direct_and_v[2:]
    size = torch.cat([d.flatten() for d in v]).norm().item()
    put(v, 0)

    def central(radius):
        sides = []
        for sign in (1, -1):
            put(v, sign * radius / size)
            sides.append(torch.autograd.grad(train(), alphas))
        put(v, 0)
        return [(p - n) * size / (2 * radius) for p, n in zip(*sides, strict=True)]

    return loss, direct, v, size, central


def test_second_order_architect(stepped):
    loss, direct, _, size, central = stepped
    printed(loss.item(), 2.5299131712)
    printed(size, 2.6006751392)
    product = central(1e-2)
    printed(norms(product), [2.0627662860, 1.2780804097])
    total = [d - ETA * h for d, h in zip(direct, product, strict=True)]
    printed(norms(total), [1.3889456676e-01, 1.3199138472e-01])
    expected = [3.12011489e-03, 1.70155552e-02, 2.23827133e-02]
    printed(total[0][0, :3].tolist(), expected)


@pytest.mark.slow  # second derivatives are compared with the definition's in test_supernet.py
def test_exact_product_of_the_second_order_architect(point, stepped):
    _, weights, _, alphas, train, _ = point
    *_, v, _, central = stepped
    g = torch.autograd.grad(train(), weights, create_graph=True)
    slope = sum((a * b).sum() for a, b in zip(g, v, strict=True))
    exact = torch.autograd.grad(slope, alphas)
    printed(norms(exact), [0.37672600749, 0.40352141847])
    # So near, no pixel crosses a kink of ReLU or changes a maximum; farther, thousands do. What is
    # left is the rounding of gradients, 1e-12 for BatchNorm's sums over 4096 pixels, by the radius.
    near(central(1e-6), exact, 1e-6, why="gradients' rounding of 1e-12 over the radius of 1e-6")


def test_evaluation_network():
    network = fill(EvaluationNetwork(GENOTYPES["DARTS_V2"]))
    with torch.no_grad():
        logits, auxiliary = network(images(1))
    expected = [1.01203726e-01, -2.48615504e-01, 7.81065800e-01, 1.55555173e-01]
    printed(logits[0, :4].tolist(), expected)
    expected = [8.14171516e-01, 7.48073695e-01, 3.95106384e-02, 3.37821664e-01]
    printed(auxiliary[0, :4].tolist(), expected)

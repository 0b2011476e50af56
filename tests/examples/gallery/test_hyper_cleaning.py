"""Hyper-cleaning: its hypergradients written out, and the corrupted images that it finds."""

import pytest
import torch
from compare import exact, near, rounding
from torch.nn.functional import cross_entropy

from examples.gallery import hyper_cleaning as example


@pytest.fixture
def small():
    """Few images, at a random model and random weights."""
    return example.make_data(0, train=40, valid=30)


def at_random(method, data):
    engine, model, r = example.build(data, method)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for t in (*model.parameters(), r):
            t.copy_(0.3 * torch.randn(t.shape, generator=g, dtype=torch.float64))
    ((found,),) = (t.values() for t in engine.hypergradient(engine.graph.problems[1]).values())
    return torch.cat([p.detach().flatten() for p in model.parameters()]), r.detach(), found


def lower(w, r, data):
    x, y = data.train
    losses = cross_entropy(x @ w[:640].view(10, 64).T + w[640:], y, reduction="none")
    return (torch.sigmoid(r) * losses).sum() / len(y) + example.DECAY * (w**2).sum()


def upper(w, data):
    x, y = data.valid
    return cross_entropy(x @ w[:640].view(10, 64).T + w[640:], y)


def test_implicit_is_dense_implicit_differentiation(small, monkeypatch):
    solved = example.mlopt.Implicit(example.mlopt.CG(max_steps=300, tol=1e-10))
    monkeypatch.setitem(example.METHODS, "Implicit(CG)", (solved, 20))
    w, r, found = at_random("Implicit(CG)", small)
    H = torch.autograd.functional.hessian(lambda w: lower(w, r, small), w)
    w.requires_grad_()
    (c,) = torch.autograd.grad(upper(w, small), w)
    r.requires_grad_()
    (g,) = torch.autograd.grad(lower(w, r, small), w, create_graph=True)
    expected = -torch.autograd.grad(g @ torch.linalg.solve(H, c), r)[0]
    low, *_, high = torch.linalg.eigvalsh(H).tolist()
    near(found, expected, 1e-10 * high / low, why="CG's residual, times the condition of H")


@pytest.mark.parametrize(("method", "steps"), [("Unrolled(20)", 20), ("OneStep()", 1)])
def test_unrolled_is_reverse_mode_through_the_momentum_steps(small, method, steps):
    w, r, found = at_random(method, small)
    r.requires_grad_()
    w, velocity = w.requires_grad_(), torch.zeros_like(w)
    for _ in range(steps):
        (g,) = torch.autograd.grad(lower(w, r, small), w, create_graph=True)
        velocity = 0.9 * velocity + g
        w = w - velocity
    expected = torch.autograd.grad(upper(w, small), r)[0]
    # a step: sums over 64 pixels, 10 classes and 40 images, differentiated twice
    exact(found, expected, rounding(4 * 120 * (steps + 1)))


@pytest.fixture(scope="module")
def plain():
    """The images, and the accuracy of a model that takes all labels for right."""
    data = example.make_data(0)
    return data, example.accuracy(example.plain(data.train, 300), data.test)


#: The gradients of all methods are compared above, in every run.
CLEANING = [
    m if m == "OneStep()" else pytest.param(m, marks=pytest.mark.slow) for m in example.METHODS
]


@pytest.mark.parametrize("method", CLEANING)
def test_it_finds_the_corrupted_images(method, plain):
    data, noisy = plain
    share = data.corrupted.double().mean()
    near(share, 0.5, 3 * (0.25 / 500) ** 0.5, scale=1.0, why="three deviations of 500 draws")
    model, weights = example.clean(data, method, 50 if method == "OneStep()" else 25)
    found = example.Detection.of(weights, data.corrupted)
    assert found.f1 > 0.85
    assert example.accuracy(model, data.test) > noisy + 8


def test_detection_counts():
    found = example.Detection.of(
        torch.tensor([0.1, 0.2, 0.3, 0.9, 0.8]), torch.tensor([True, True, False, True, False])
    )
    assert (found.precision, found.recall) == (2 / 3, 2 / 3)
    exact(found.f1, 2 / 3, rounding(40))  # a few quotients, products and sums
    assert example.Detection.of(torch.ones(2), torch.tensor([True, False])).f1 == 0

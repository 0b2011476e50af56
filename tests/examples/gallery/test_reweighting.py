"""Meta-Weight-Net: its meta-gradient written out, and its worth on noisy labels."""

import copy

import pytest
import torch
from compare import exact, near
from oracles import sweep_rounding
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import mlopt
from examples.gallery import reweighting as example


def test_noise_is_as_much_as_asked_for():
    data = example.make_data(0, noise=0.4)
    bound = 3 * (0.4 * 0.6 / len(data.changed)) ** 0.5
    share = data.changed.double().mean()
    near(share, 0.4, bound, scale=1.0, why="three deviations of as many draws")
    clean = example.make_data(0, noise=0.0)
    assert torch.equal(clean.train[1] != data.train[1], data.changed)
    assert torch.equal(clean.train[0], data.train[0])
    assert torch.equal(clean.meta[1], data.meta[1])


def small(seed):
    """Both nets in float64, one batch each."""
    torch.manual_seed(seed)
    w = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    v = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1), nn.Sigmoid()).double()
    train, meta = [(torch.randn(12, 6).double(), torch.randint(3, (12,))) for _ in range(2)]
    return w, v, train, meta


def test_the_meta_gradient_is_that_of_the_paper(monkeypatch):
    """By Eq. 3 to 5, with momentum 0.9 at its first step: one differentiable SGD step."""
    with torch.random.fork_rng(devices=[]):
        w, v, train, meta = small(3)
    monkeypatch.setattr(example, "make_classifier", lambda seed: copy.deepcopy(w))
    monkeypatch.setattr(example, "make_weight_net", lambda seed: copy.deepcopy(v))
    monkeypatch.setattr(example, "batches", lambda rows: [rows])
    engine = example.build(example.Data(train, torch.zeros(12), meta, meta), 0)[0]
    training, upper = engine.graph.problems
    found = engine.hypergradient(upper)[upper.over[0]]

    parameters = dict(w.named_parameters())
    losses = cross_entropy(w(train[0]), train[1], reduction="none")
    weights = v(losses.detach()[:, None])[:, 0]
    loss = (weights / weights.mean() * losses).mean()
    grads = torch.autograd.grad(loss, parameters.values(), create_graph=True)
    ahead = {k: p - 0.1 * g for (k, p), g in zip(parameters.items(), grads, strict=True)}
    value = cross_entropy(functional_call(w, ahead, (meta[0],)), meta[1])
    expected = torch.autograd.grad(value, list(v.parameters()))
    names = [name for name, _ in v.named_parameters()]
    exact(found, dict(zip(names, expected, strict=True)), sweep_rounding(1))


def test_the_weight_net_is_updated_first():
    data = example.make_data(0)
    engine = example.build(data, 0)[0]
    assert isinstance(engine.schedule, mlopt.UpperFirst)


@pytest.mark.slow  # the gradients above are those that it follows
def test_it_is_much_better_than_plain_training_on_noisy_labels():
    data = example.make_data(0)
    w, v = example.reweighted(data, 0, 20)
    assert (
        example.accuracy(w, data.test)
        > example.accuracy(example.plain(data.train, 0, 20), data.test) + 5
    )
    own, wrong = example.mean_weights(data, w, v)
    assert own > 2 * wrong

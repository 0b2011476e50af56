"""BigGAN as levels of a graph: hypergradients through it, its buffers, a run with an average."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from compare import exact, kills, near, rounding
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import relu
from torch.nn.utils.parametrize import is_parametrized

import mlopt
from mlopt.generators import BigGANDiscriminator, BigGANGenerator, ExponentialAverage

F64 = torch.float64
# Through the generator, then the discriminator: five 3x3 convolutions of up to 64 inputs, four
# BatchNorms with two sums over 6x8x8 pixels, attention and heads; forwards and back, for the step
# and for the loss behind it. Each BatchNorm lets what came before grow by 1.2, and some of the
# second derivative cancels.
HYPER = rounding(2 * 3 * (5 * 64 + 4 * 2 * 384 + 200), condition=10)
LABELS = torch.arange(3).repeat(2)
LR = 0.05


class Levels:
    """H against G, whose classes are weighted by exp(a); a is judged by G's images."""

    def __init__(self, *, training: bool, product: Any = None) -> None:
        torch.manual_seed(0)
        g = BigGANGenerator(
            8, 1, 3, 4, 1, shared=2, hierarchical=True, attention=[8], init="xavier"
        )
        h = BigGANDiscriminator(8, 1, 3, 1, attention=[4], init="xavier")
        nn.init.constant_(g.attention["0"].gamma, 0.3)
        nn.init.constant_(h.layers[1].gamma, 0.3)
        self.real = torch.rand(6, 1, 8, 8, dtype=F64) * 2 - 1
        self.noise = torch.randn(6, 4, dtype=F64)
        # Two passes, so that BatchNorm's statistics and the power iteration are under way.
        self.g, self.h = g.double(), h.double()
        for _ in range(2):
            self.h(self.g(LABELS, self.noise), LABELS)
        self.g.train(training)
        self.h.train(training)
        self.G, self.H = mlopt.Variable(self.g, "g"), mlopt.Variable(self.h, "h")
        self.A = mlopt.Variable(nn.Parameter(torch.tensor([0.1, -0.2, 0.3], dtype=F64)), "a")
        sgd = [torch.optim.SGD(v.parameters(), lr=LR) for v in (self.H, self.G, self.A)]
        method = mlopt.OneStep(LR, product or mlopt.Exact())

        @mlopt.problem(over=self.H, given=[self.G], optimizer=sgd[0], hypergrad=mlopt.Frozen())
        def discriminator(h, g):
            real, fake = h(self.real, LABELS), h(g(LABELS, self.noise), LABELS)
            return relu(1 - real).mean() + relu(1 + fake).mean()

        @mlopt.problem(over=self.G, given=[self.H, self.A], optimizer=sgd[1], hypergrad=method)
        def generator(g, h, a):
            return self.generator_loss(h(g(LABELS, self.noise), LABELS), a)

        @mlopt.problem(over=self.A, given=[self.G], optimizer=sgd[2])
        def top(a, g):
            return self.top_loss(g(LABELS, self.noise), a)

        self.top = top
        self.engine = mlopt.Engine([discriminator, generator, top])

    def generator_loss(self, logits: Tensor, a: Tensor) -> Tensor:
        return -(a.exp()[LABELS] * logits).mean()

    def top_loss(self, images: Tensor, a: Tensor) -> Tensor:
        return 10 * (images - self.real).square().mean() + a.square().sum()

    def total(self, a: Tensor) -> Tensor:
        """Top's loss of a and the generator's look-ahead, by plain autograd on copies."""
        value = {k: v.detach().requires_grad_() for k, v in self.g.named_parameters()}

        def images(weights: dict[str, Tensor]) -> Tensor:
            buffers = {k: v.clone() for k, v in self.g.named_buffers()}
            return functional_call(self.g, weights | buffers, (LABELS, self.noise))

        loss = self.generator_loss(copy.deepcopy(self.h)(images(value), LABELS), a)
        gradient = torch.autograd.grad(loss, list(value.values()), create_graph=True)
        ahead = {k: w - LR * d for (k, w), d in zip(value.items(), gradient, strict=True)}
        return self.top_loss(images(ahead), a)


@pytest.mark.parametrize("training", [True, False])
def test_the_hypergradient_through_both_networks(training) -> None:
    levels = Levels(training=training)
    a = levels.A.tensor.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(levels.total(a), a)
    found = levels.engine.hypergradient(levels.top)[levels.A][""]
    exact(found, expected, HYPER)
    kills(2 * a, expected, HYPER)  # the part that does not pass the generator


def test_the_hypergradient_against_differences() -> None:
    levels = Levels(training=False)
    (found,) = levels.engine.hypergradient(levels.top)[levels.A].values()
    a, eps = levels.A.tensor.detach(), 1e-5
    expected = torch.stack(
        [
            (levels.total(a + eps * e) - levels.total(a - eps * e)).detach() / (2 * eps)
            for e in torch.eye(3, dtype=F64)
        ]
    )
    why = "rounding of the loss, 1e-14, over the radius, and its square times the third derivative"
    near(found, expected, 1e-7, why=why)


def test_products_by_differences_agree() -> None:
    found = [
        levels.engine.hypergradient(levels.top)[levels.A][""]
        for levels in (
            Levels(training=False, product=product)
            for product in (mlopt.Exact(), mlopt.Central(1e-5))
        )
    ]
    near(found[1], found[0], 1e-7, why="the radius of 1e-5, squared and by rounding")


def vectors(network: nn.Module) -> list[Tensor]:
    return [
        buffer.detach().clone()
        for part in network.modules()
        if is_parametrized(part)
        for buffer in part.parametrizations.buffers()
    ]


def test_a_step_writes_the_buffers_that_a_plain_pass_writes() -> None:
    """One pass of G in its own problem, two of H in its own; the look-ahead leaves no trace."""
    levels = Levels(training=True)
    g, h = copy.deepcopy(levels.g), copy.deepcopy(levels.h)
    levels.engine.hypergradient(levels.top)
    for before, after in ((g, levels.g), (h, levels.h)):
        pair = (before.buffers(), after.buffers())
        assert all(torch.equal(b, a) for b, a in zip(*pair, strict=True))
    g(LABELS, levels.noise)
    h(levels.real, LABELS)
    h(levels.real, LABELS)  # the vectors do not depend on the images
    levels.engine.step()
    for plain, network in ((g, levels.g), (h, levels.h)):
        expected = vectors(plain)
        assert len(expected) > 10
        for e, f in zip(expected, vectors(network), strict=True):
            assert torch.equal(f, e)
    assert torch.equal(levels.g.norm.running_mean, g.norm.running_mean)


def test_in_evaluation_mode_the_buffers_stay() -> None:
    levels = Levels(training=False)
    before = [b.clone() for m in (levels.g, levels.h) for b in m.buffers()]
    parameters = [p.detach().clone() for p in levels.g.parameters()]
    levels.engine.step()
    after = [b for m in (levels.g, levels.h) for b in m.buffers()]
    assert all(torch.equal(b, a) for b, a in zip(before, after, strict=True))
    pairs = zip(parameters, levels.g.parameters(), strict=True)
    assert not all(torch.equal(p, q) for p, q in pairs)


def test_the_audit_agrees_in_evaluation_mode() -> None:
    mlopt.audit(Levels(training=False).engine, directions=1).check()


def test_an_average_follows_an_engine() -> None:
    levels = Levels(training=True)
    average = ExponentialAverage(levels.g, decay=0.5, start=1)
    levels.engine.step()
    average.update()
    first = [p.detach().clone() for p in levels.g.parameters()]
    for a, p in zip(average.module.parameters(), first, strict=True):
        assert torch.equal(a, p)
    levels.engine.step()
    average.update()
    assert average.updates == 2
    moved = 0.0
    pairs = zip(average.module.parameters(), first, levels.g.parameters(), strict=True)
    for a, before, now in pairs:
        exact(a, (before + now.detach()) / 2, rounding(10))
        moved += float((now - before).detach().norm())
    assert moved > 0
    assert average.module(LABELS).shape == (6, 1, 8, 8)

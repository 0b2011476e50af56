"""The penalty in an objective: R shifts the real images, the critic H meets them, G follows H."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import exact, kills, near, rounding
from oracles import materialise
from torch import Tensor, nn

import mlopt
from mlopt.generators import (
    gradient_penalty,
    make_gan,
    wasserstein_discriminator_loss,
    wasserstein_generator_loss,
)

LABELS = torch.tensor([0, 1, 2, 2, 1])


def images(count: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 1, size, size, generator=generator, dtype=torch.float64)


class Critic(nn.Module):
    """Smooth, and small enough for differences."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(0.5 * torch.randn(4, 3).double())
        self.v = nn.Parameter(torch.randn(2, 3).double())

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return (torch.tanh(x.flatten(1) @ self.w) * self.v[labels]).sum(1)


class Maker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(2, 4).double())

    def forward(self, labels: Tensor) -> Tensor:
        noise = 0.3 * torch.randn(len(labels), 4, dtype=torch.float64)
        return torch.tanh(self.w[labels] + noise).view(-1, 1, 2, 2)


def wgan_problems(product: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    H, G = mlopt.Variable(Critic(), "h"), mlopt.Variable(Maker(), "g")
    R = mlopt.Variable(nn.Parameter(torch.tensor([0.4, -0.2]).double()), "r")
    real, labels = images(4, 2), torch.tensor([0, 1, 1, 0])
    batches = [(real, labels)]

    @mlopt.problem(over=H, given=[G, R], data=batches, hypergrad=mlopt.OneStep(0.1, product))
    def critic(h, g, r, batch):
        x, y = batch
        x, fake = x + r[y].view(-1, 1, 1, 1), g(y)
        loss = wasserstein_discriminator_loss(h(x, y), h(fake, y))
        return loss + 10 * gradient_penalty(h, x, fake, y)

    @mlopt.problem(over=G, given=[H], data=batches, hypergrad=mlopt.OneStep(2.0, product))
    def generator(g, h, batch):
        _, y = batch
        return wasserstein_generator_loss(h(g(y), y))

    @mlopt.problem(over=R, given=[G], data=batches)
    def upper(r, g, batch):
        x, y = batch
        return (g(y) - x).square().mean() + 0.1 * r.square().sum()

    return {
        "H": H, "G": G, "R": R, "critic": critic, "generator": generator, "upper": upper,
        "batch": batches[0],
    }  # fmt: skip


def upper_value(case: dict[str, Any], engine: mlopt.Engine, r: Tensor) -> Tensor:
    """The upper loss as a plain program of r: G looks ahead, and H, which looks ahead, follows."""
    x, y = case["batch"]

    def seeded(node: str) -> None:
        torch.manual_seed(engine.seed_of(case[node]))

    def net(variable: str, tensors: dict[str, Tensor]) -> Any:
        return materialise(case[variable].value, tensors)

    def standing(variable: str) -> dict[str, Tensor]:
        named = case[variable].value.named_parameters()
        return {k: p.detach().clone().requires_grad_() for k, p in named}

    with torch.random.fork_rng():
        h, g = standing("H"), standing("G")
        critic = net("H", h)
        seeded("critic")
        fake = net("G", g)(y)
        shifted = x + torch.stack([r[c] for c in y.tolist()]).view(-1, 1, 1, 1)
        u = torch.rand(4, dtype=torch.float64).view(-1, 1, 1, 1)
        between = (1 - u) * shifted + u * fake
        (slope,) = torch.autograd.grad(critic(between, y).sum(), between, create_graph=True)
        penalty = 10 * (slope.square().sum((1, 2, 3)).sqrt() - 1).square().mean()
        loss = (critic(fake, y) - critic(shifted, y)).mean() + penalty
        slopes = torch.autograd.grad(loss, list(h.values()), create_graph=True)
        ahead = {k: p - 0.1 * s for (k, p), s in zip(h.items(), slopes, strict=True)}
        seeded("generator")
        loss = -net("H", ahead)(net("G", g)(y), y).mean()
        slopes = torch.autograd.grad(loss, list(g.values()), create_graph=True)
        g = {k: p - 2.0 * s for (k, p), s in zip(g.items(), slopes, strict=True)}
        seeded("upper")
        return (net("G", g)(y) - x).square().mean() + 0.1 * r.square().sum()


@pytest.mark.parametrize("product", [mlopt.Exact(), mlopt.Central(1e-3)])
def test_hypergradient_through_the_penalty(product) -> None:
    """R -> H' (with the penalty) -> G' -> upper loss, against a plain program of r."""
    case = wgan_problems(product)
    engine = mlopt.Engine([case["critic"], case["generator"], case["upper"]], seed=5)
    found = engine.hypergradient(case["upper"])[case["R"]][""]
    r = case["R"].value.detach().requires_grad_()
    (expected,) = torch.autograd.grad(upper_value(case, engine, r), r)
    # What comes through the two networks, of which each number is large enough to be compared.
    found, indirect = found - 0.2 * r, expected - 0.2 * r
    assert indirect.abs().min() > 1e-3
    # Four images of four pixels through three hidden units and their second derivatives, about
    # 200 operations on the longest way there and back; slopes near one and scores of both signs
    # cancel.
    bound = rounding(2 * 200, condition=100)
    if isinstance(product, mlopt.Exact):
        exact(found, indirect, bound)
        kills(0.5 * found, indirect, bound)
    else:
        near(found, indirect, 1e-4, why="1e-3 squared, of third derivatives up to 100")


@pytest.mark.parametrize("name", ["wgan-gp", "wgan-gp-conv"])
def test_an_engine_trains_the_family(name) -> None:
    """Critic and generator as two problems with Adam: losses stay finite and both networks move."""
    torch.manual_seed(0)
    g, h = make_gan(name, 8, 1, 3, width=2, z=4)
    G, H = mlopt.Variable(g, "g"), mlopt.Variable(h, "h")
    data = [(images(5, 8).float(), LABELS)]
    adam = {v: torch.optim.Adam(v.parameters(), 1e-3, betas=(0.0, 0.9)) for v in (G, H)}

    @mlopt.problem(over=H, given=[G], data=data, optimizer=adam[H], hypergrad=mlopt.Frozen())
    def critic(h, g, batch):
        x, y = batch
        fake = g(y)
        loss = wasserstein_discriminator_loss(h(x, y), h(fake, y))
        return loss + 10 * gradient_penalty(h, x, fake, y)

    @mlopt.problem(over=G, given=[H], data=data, optimizer=adam[G])
    def generator(g, h, batch):
        _, y = batch
        return wasserstein_generator_loss(h(g(y), y))

    before = [p.detach().clone() for p in (*g.parameters(), *h.parameters())]
    engine = mlopt.Engine([critic, generator])
    engine.run(steps=2, progress=False)
    after = [*g.parameters(), *h.parameters()]
    assert all(p.isfinite().all() for p in after)
    moved = [not torch.equal(p, old) for p, old in zip(after, before, strict=True)]
    assert sum(moved) > 0.8 * len(moved)

"""LFM-CW (numbers of its equations in comments), on smooth networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from case_graphs import GraphRow, Method, Optimizer, module, parameter, tensor
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, softplus

import mlopt
from mlopt import (
    Frozen,
)

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW

# LFM-CW (numbers of its equations in comments), on smooth networks.


class Classifier(nn.Module):
    """A hidden layer whose units the architecture scales."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)) * a)


class Discriminator(nn.Module):
    """The architecture as trunk, and a projection on the class."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)
        self.embedding = nn.Parameter(torch.zeros(3, 4))

    def forward(self, x: Tensor, y: Tensor, a: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x)) * a
        return self.last(hidden).squeeze(-1) + (hidden * self.embedding[y]).sum(-1)


class Generator(nn.Module):
    """A picture from a class and noise that is drawn inside."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, y: Tensor) -> Tensor:
        noise = torch.randn(len(y), 2, dtype=torch.float64, device=y.device)
        return torch.tanh(self.layer(torch.cat([one_hot(y, 3).double(), noise], -1)))


def per_class(losses: Tensor, y: Tensor) -> Tensor:
    """The mean of each class."""
    mask = one_hot(y, 3).to(losses)
    return (mask * losses[:, None]).sum(0) / mask.sum(0)


@dataclass
class LfmCw(GraphRow):
    """LFM-CW, with its variables and problems by name."""

    W1: Any = None
    W2: Any = None
    G: Any = None
    H: Any = None
    A: Any = None
    stage1: Any = None
    discriminator: Any = None
    generator: Any = None
    class_losses: Any = None
    synthetic: Any = None
    stage2: Any = None


def lfm_cw(
    device: torch.device,
    method: Method,
    optimizer: Optimizer = lambda parameters: SGD(parameters, lr=0.1),
    *,
    stage1_method: mlopt.AbstractHypergradient | None = None,
    generator_method: mlopt.AbstractHypergradient | None = None,
    stage2_method: mlopt.AbstractHypergradient | None = None,
    stop_losses: bool = False,
    stop_synthetic: bool = False,
) -> LfmCw:
    """LFM-CW's seven nodes; each method and each edge into stage II can be chosen alone."""
    W1 = mlopt.Variable(module(Classifier(), device, 51), "w1")
    W2 = mlopt.Variable(module(Classifier(), device, 52), "w2")
    G = mlopt.Variable(module(Generator(), device, 53), "g")
    H = mlopt.Variable(module(Discriminator(), device, 54), "h")
    A = mlopt.Variable(parameter(device, 55, 4), "a")
    labels = torch.tensor([0, 1, 2, 2, 1, 0, 1], device=device)
    train = [(tensor(device, 56, 7, 3), labels)]
    valid = [(tensor(device, 57, 7, 3), labels.flip(0))]

    @mlopt.problem(  # Eq. 1
        over=W1,
        given=[A],
        data=train,
        optimizer=optimizer(W1.parameters()),
        hypergrad=stage1_method or method(),
    )
    def stage1(w1, a, batch):
        x, y = batch
        return cross_entropy(w1(x, a), y)

    @mlopt.problem(  # Eq. 2, over H
        over=H, given=[G, A], data=train, optimizer=SGD(H.parameters(), lr=0.1), hypergrad=Frozen()
    )
    def discriminator(h, g, a, batch):
        x, y = batch
        return softplus(-h(x, y, a)).mean() + softplus(h(g(y), y, a)).mean()

    @mlopt.problem(  # Eq. 2, over G
        over=G,
        given=[H, A],
        data=train,
        optimizer=optimizer(G.parameters()),
        hypergrad=generator_method or method(),
    )
    def generator(g, h, a, batch):
        _, y = batch
        return softplus(-h(g(y), y, a)).mean()

    @mlopt.signal(given=[W1, A], data=valid)
    def class_losses(w1, a, batch):
        x, y = batch
        return per_class(cross_entropy(w1(x, a), y, reduction="none"), y)

    @mlopt.signal(given=[G], data=train)
    def synthetic(g, batch):
        _, y = batch
        return g(y)

    weights = mlopt.stop(class_losses) if stop_losses else class_losses
    fake = mlopt.stop(synthetic) if stop_synthetic else synthetic

    @mlopt.problem(  # Eq. 3
        over=W2,
        given=[A, weights, fake],
        data=train,
        optimizer=optimizer(W2.parameters()),
        hypergrad=stage2_method or method(),
    )
    def stage2(w2, a, class_losses, synthetic, batch):
        x, y = batch
        mistakes = cross_entropy(w2(synthetic, a), y, reduction="none")
        return cross_entropy(w2(x, a), y) + (class_losses[y] * mistakes).mean()

    @mlopt.problem(  # Eq. 4
        over=A, given=[W2], data=valid, optimizer=SGD(A.parameters(), lr=0.1)
    )
    def stage3(a, w2, batch):
        x, y = batch
        return cross_entropy(w2(x, a), y)

    nodes = [stage1, discriminator, generator, class_losses, synthetic, stage2, stage3]
    batches = {n: valid[0] if n in (class_losses, stage3) else train[0] for n in nodes}
    return LfmCw(
        nodes,
        stage3,
        [stage1, generator, stage2],
        batches,
        W1=W1,
        W2=W2,
        G=G,
        H=H,
        A=A,
        stage1=stage1,
        discriminator=discriminator,
        generator=generator,
        class_losses=class_losses,
        synthetic=synthetic,
        stage2=stage2,
    )

"""`Engine(parts=m)`: what is drawn, and buffers, which each part writes from where a step began."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import exact, rounding

#: Asked for by the parts law; see tests/sweep/test_random_parts.py for graphs of every shape.
from engine.test_parts import LAW, SAMPLES, data, numbers
from small import F64, seeded
from torch import Tensor, nn

import mlopt

# Draws and buffers.


class Noisy(nn.Module):
    """Dropout and BatchNorm, as they are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.last = nn.BatchNorm1d(3), nn.Dropout(0.4), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.norm(x)))


def test_a_loop_that_draws_part_by_part_draws_the_same():
    net, twin = (seeded(1, Noisy) for _ in "12")
    x, y = data(4)
    W = mlopt.Variable(net, "w")

    @mlopt.problem(over=W, data=[(x, y)], optimizer=torch.optim.SGD(W.parameters(), lr=0.5))
    def fit(w, batch):
        return nn.functional.cross_entropy(w(batch[0]), batch[1])

    engine = mlopt.Engine([fit], parts=3)
    seeds = [engine.seed_of(fit, part=i) for i in range(3)]
    assert len(set(seeds)) == 3
    assert seeds[0] == engine.seed_of(fit)
    engine.step()

    start = {k: b.clone() for k, b in twin.named_buffers()}
    left: dict[str, Any] = dict.fromkeys(start, 0.0)
    total = torch.zeros((), dtype=F64)
    for seed, xs, ys in zip(seeds, x.split([4, 3, 3]), y.split([4, 3, 3]), strict=True):
        for k, b in twin.named_buffers():
            b.data = start[k].clone()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            total = total + nn.functional.cross_entropy(twin(xs), ys) * len(xs) / SAMPLES
        for k, b in twin.named_buffers():
            left[k] = left[k] + b * len(xs) / SAMPLES
    total.backward()
    expected = [p.detach() - 0.5 * p.grad for p in twin.parameters()]
    exact([p.detach() for p in net.parameters()], expected, rounding(400, 10))
    found = dict(net.named_buffers())
    exact(found["norm.running_mean"], left["norm.running_mean"], rounding(40))
    exact(found["norm.running_var"], left["norm.running_var"], rounding(40))
    assert found["norm.num_batches_tracked"] == 1


def test_complex_buffers_are_means_as_real_ones_are():
    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(3, 3)
            self.register_buffer("mean", torch.zeros(3, dtype=torch.complex128))

        def forward(self, x: Tensor) -> Tensor:
            self.mean = self.mean * 0.9 + 0.1 * torch.complex(x.cos(), x.sin()).mean(0)
            return self.last(x)

    net, batch = seeded(1, Spectrum), data(4)
    W = mlopt.Variable(net, "w")

    @mlopt.problem(over=W, data=[batch], optimizer=torch.optim.SGD(W.parameters(), lr=0.1))
    def fit(w, batch):
        return nn.functional.cross_entropy(w(batch[0]), batch[1])

    mlopt.Engine([fit], parts=3).step()
    exact(net.mean, 0.1 * torch.complex(batch[0].cos(), batch[0].sin()).mean(0), rounding(40))


class Moving(nn.Module):
    """It reads a buffer that each call moves, by as much whatever it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 3)
        self.register_buffer("scale", torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        z = self.last(x) * self.scale
        self.scale = self.scale + 0.3
        return z


PLAYS: dict[str, Any] = {
    "joint": lambda p, q: mlopt.games.Joint(3),
    "alternating": lambda p, q: mlopt.games.Alternating((p, 2), (q, 1)),
    "extragradient": lambda p, q: mlopt.games.Extragradient(),
}


@pytest.mark.parametrize("play", PLAYS)
def test_parts_law_of_plays_whose_buffers_move(play):
    """A leader has parts computed again when the players' buffers are those of later steps."""

    def made(parts: int) -> mlopt.Engine:
        V, W = (mlopt.Variable(seeded(i, Moving), f"w{i}") for i in range(2))
        A = mlopt.Variable(torch.tensor([0.3, -0.2, 0.1], dtype=F64).requires_grad_(), "a")

        def player(own: mlopt.Variable, other: mlopt.Variable, sign: int) -> mlopt.Problem:
            sgd = torch.optim.SGD(own.parameters(), lr=0.1, momentum=0.9)

            @mlopt.problem(
                over=own, given=[other, A], data=[data(2)], optimizer=sgd, name=f"over {own.name}"
            )
            def objective(own, other, a, batch):
                x, y = batch
                z = own(x) * a.exp()
                return nn.functional.cross_entropy(z, y) + sign * (z * other(x)).tanh().mean()

            return objective

        @mlopt.problem(
            over=A, given=[V, W], data=[data(3)], optimizer=torch.optim.SGD(A.parameters(), lr=0.1)
        )
        def leader(a, v, w, batch):
            return nn.functional.cross_entropy(v(batch[0]) + w(batch[0]), batch[1]) + (a**2).sum()

        players = player(V, W, 1), player(W, V, -1)
        game = mlopt.Game(players, play=PLAYS[play](*players))
        return mlopt.Engine([game, leader], parts=parts)

    exact(numbers(made(3)), numbers(made(1)), LAW)

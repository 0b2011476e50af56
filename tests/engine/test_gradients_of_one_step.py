"""The law of gradients: what an optimizer sees are those of this step, and nothing else's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compare import exact, rounding
from small import F64, seeded
from torch import nn

import mlopt

X = torch.linspace(-1.0, 1.5, 15, dtype=F64).reshape(5, 3)

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.AdamW(p, lr=0.1),
}


class World:
    """A network on a lower level and one on an upper, and both in a plain loop."""

    def __init__(self, make: Callable[[Any], torch.optim.Optimizer], way: str) -> None:
        self.nets, self.twins = ([self.net(1), self.net(2)] for _ in range(2))
        self.optimizers = [make(n.parameters()) for n in self.nets]
        self.plain = [make(n.parameters()) for n in self.twins]
        W, R = (mlopt.Variable(n, name) for n, name in zip(self.nets, "wr", strict=True))
        low = mlopt.problem(over=W, given=[R], optimizer=self.optimizers[0], name="low")(self.loss)
        up = mlopt.problem(over=R, given=[W], optimizer=self.optimizers[1], name="up")(self.loss)
        if way == "game":
            self.engine = mlopt.Engine([mlopt.Game([low, up])])
        else:
            self.engine = mlopt.Engine([low, up], hypergrad=mlopt.Frozen())

    @staticmethod
    def net(seed: int) -> nn.Sequential:
        return seeded(seed, lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)))

    @staticmethod
    def loss(own: Any, other: Any) -> torch.Tensor:
        return (own(X) - 0.5 * other(X).detach() - 1).square().mean()

    def step(self) -> None:
        self.engine.step()
        losses = [self.loss(*self.twins), self.loss(*self.twins[::-1])]
        for loss, optimizer in zip(losses, self.plain, strict=True):
            optimizer.zero_grad()
            loss.backward()
        for optimizer in self.plain:
            optimizer.step()

    def change(self, do: Callable[[nn.Sequential], None]) -> None:
        for net in (*self.nets, *self.twins):
            do(net)


def freeze(net: nn.Sequential) -> None:
    net[0].bias.requires_grad_(False)


def freeze_layer(net: nn.Sequential) -> None:
    net[2].requires_grad_(False)


def take_out(net: nn.Sequential) -> None:
    net.aside = [net[0]]  # in a list, which is no part of a module
    net[0] = nn.Identity()


def back(net: nn.Sequential) -> None:
    net.requires_grad_(True)
    if isinstance(net[0], nn.Identity):
        net[0] = net.aside[0]


@pytest.mark.parametrize("change", [freeze, freeze_layer, take_out])
@pytest.mark.parametrize("way", ["levels", "game"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_not_trained_stays_as_in_a_plain_loop(
    optimizer: str, way: str, change: Callable[[nn.Sequential], None]
) -> None:
    """Also where gradients are there from before: of a step, or of another program."""
    world = World(OPTIMIZERS[optimizer], way)
    for p in (p for net in world.nets for p in net.parameters()):
        p.grad = torch.ones_like(p)
    world.step()
    held = [list(net.parameters()) for net in (*world.nets, *world.twins)]
    for turn in (change, back):
        world.change(turn)
        world.step()
        world.step()
        for i in (0, 1):
            for p, q in zip(held[i], held[i + 2], strict=True):
                exact(p, q, rounding(100, condition=100))  # a few steps through two layers


def test_a_step_that_fails_puts_the_gradients_back_that_it_took_away() -> None:
    world = World(OPTIMIZERS["momentum"], "levels")
    net = world.nets[0]
    world.change(freeze)
    world.change(take_out)
    held = [p for layer in (*net, *net.aside) for p in layer.parameters()]
    for p in held:
        p.grad = torch.ones_like(p)
    before = [p.grad for p in held]
    world.optimizers[1].register_step_post_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        world.engine.step()
    assert all(p.grad is g for p, g in zip(held, before, strict=True))

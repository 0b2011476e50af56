"""The LFM-CW step in Betty 0.2.1, as its users would write it."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from mlopt.generators import discriminator_loss, generator_loss


def betty_step(world: Any, device: str, clip: float, lambda_: float) -> Callable[[], None] | None:
    """A function that takes one step; None where Betty is not installed (or no world is given)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from betty.configs import Config, EngineConfig
            from betty.engine import Engine
            from betty.problems import ImplicitProblem
    except ImportError as error:
        print(f"Betty is left out: {error}")
        return None
    if world is None:
        return lambda: None

    class W1(ImplicitProblem):
        def training_step(self, batch):
            x, y = batch
            return cross_entropy(self.module(x, self.a()), y)

    class H(ImplicitProblem):
        def training_step(self, batch):
            x, y = batch
            real, fake = self.module(x, y, self.a()), self.module(self.g(y).detach(), y, self.a())
            return discriminator_loss(real, fake)

    class G(ImplicitProblem):
        def training_step(self, batch):
            _, y = batch
            return generator_loss(self.h(self.module(y), y, self.a()))

    class W2(ImplicitProblem):
        def training_step(self, batch):
            (x, y), (vx, vy) = batch
            weights = world.state(cross_entropy(self.w1(vx, self.a()), vy, reduction="none"), vy)
            mistakes = cross_entropy(self.module(self.g(y), self.a()), y, reduction="none")
            real = cross_entropy(self.module(x, self.a()), y)
            return real + lambda_ * (weights[y] * mistakes).mean()

    class A(ImplicitProblem):
        def training_step(self, batch):
            x, y = batch
            return cross_entropy(self.w2(x, self.module()), y)

    def make(kind: Any, name: str, *loaders: Any, **options: Any) -> Any:
        return kind(
            name=name,
            config=Config(type="darts", unroll_steps=1, **options),
            module=getattr(world, name),
            optimizer=world.optimizers[name],
            train_data_loader=loaders,
        )

    train, valid = [world.train], [world.valid]
    w1 = make(W1, "w1", train, gradient_clipping=clip)
    h = make(H, "h", train)
    g = make(G, "g", train)
    w2 = make(W2, "w2", train, valid, gradient_clipping=clip)
    a = make(A, "a", valid, retain_graph=True)  # needed: its objective reads its own module too
    engine = Engine(
        config=EngineConfig(train_iters=1, valid_step=10**9),
        problems=[w1, h, g, w2, a],
        dependencies={"u2l": {a: [w1, g, w2]}, "l2u": {w1: [w2], g: [w2], w2: [a]}},
    )
    engine.train()
    counter = itertools.count(1)

    def step() -> None:
        engine.global_step = next(counter)
        engine.train_step()

    if device != "cpu":
        torch.cuda.synchronize()
    return step

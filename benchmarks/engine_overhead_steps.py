"""The steps that `engine_overhead.py` times: one small bilevel problem, by each contestant.

    lower: |w - a|^2 / 2 + sum_i w_i^3 / 60;      upper: |w - target|^2 / 2 + |a|^2 / 20

Both variables move by SGD. All but Betty's take the same step to rounding, or, for products by
differences, to their error. Betty's darts evaluates the mixed product after the lower step and
without the learning rate. A builder returns None where its library is not installed.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import mlopt

__all__ = ["CONTESTANTS", "PRODUCTS", "Small", "betty", "hand", "higher", "ours", "torchopt"]

Step = Callable[[], None]

LR, RADIUS = 0.1, 0.01
PRODUCTS = {
    "central": mlopt.Central(RADIUS),
    "one-sided": mlopt.OneSided(RADIUS),
    "exact": mlopt.Exact(),
}


class Small(nn.Module):
    """A vector as a module, which is what the other libraries take."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self) -> Tensor:
        return self.value


class World:
    """The problem of one contestant; equal seeds make equal worlds."""

    def __init__(self, size: int, device: str, dtype: torch.dtype = torch.float32) -> None:
        draw = torch.Generator().manual_seed(0)

        def vector() -> Tensor:
            return torch.randn(size, generator=draw, dtype=torch.float64).to(device, dtype)

        self.w, self.a, self.target = Small(vector()), Small(vector()), vector()
        self.optimizers = {n: torch.optim.SGD(getattr(self, n).parameters(), LR) for n in "wa"}

    @staticmethod
    def lower(w: Tensor, a: Tensor) -> Tensor:
        return ((w - a) ** 2).sum() / 2 + (w**3).sum() / 60

    def upper(self, a: Tensor, w: Tensor) -> Tensor:
        return ((w - self.target) ** 2).sum() / 2 + (a**2).sum() / 20


def ours(world: World, product: str) -> Step:
    W, A = mlopt.Variable(world.w.value, "w"), mlopt.Variable(world.a.value, "a")
    o = world.optimizers

    @mlopt.problem(over=W, given=[A], optimizer=o["w"])
    def lower(w, a):
        return world.lower(w, a)

    @mlopt.problem(over=A, given=[W], optimizer=o["a"])
    def upper(a, w):
        return world.upper(a, w)

    engine = mlopt.Engine([lower, upper], hypergrad=mlopt.OneStep(product=PRODUCTS[product]))
    return lambda: engine.step() and None


def hand(world: World, product: str) -> Step:
    w, a = world.w.value, world.a.value
    grad = torch.autograd.grad

    def exact() -> None:
        (g,) = grad(world.lower(w, a), w, create_graph=True)
        (total,) = grad(world.upper(a, w - LR * g), a)
        w.grad, a.grad = g.detach(), total

    def difference() -> None:
        base = None
        if product == "one-sided":
            g, base = grad(world.lower(w, a), (w, a))
        else:
            (g,) = grad(world.lower(w, a.detach()), w)
        ahead = (w.detach() - LR * g).requires_grad_()
        total, c = grad(world.upper(a, ahead), (a, ahead))
        u = LR * c
        e = RADIUS / u.norm()
        (plus,) = grad(world.lower(w.detach() + e * u, a), a)
        if base is None:
            (minus,) = grad(world.lower(w.detach() - e * u, a), a)
            mixed = (plus - minus) / (2 * e)
        else:
            mixed = (plus - base) / e
        w.grad, a.grad = g, total - mixed

    gradients = exact if product == "exact" else difference

    def step() -> None:
        gradients()
        for optimizer in world.optimizers.values():
            optimizer.step()

    return step


def betty(world: World, product: str) -> Step | None:
    if product != "central":
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from betty.configs import Config, EngineConfig
            from betty.engine import Engine
            from betty.problems import ImplicitProblem
    except ImportError:
        return None

    class Lower(ImplicitProblem):
        def training_step(self, batch):
            return world.lower(self.module(), self.a())

    class Upper(ImplicitProblem):
        def training_step(self, batch):
            return world.upper(self.module(), self.w())

    def make(kind: Any, name: str, **options: Any) -> Any:
        return kind(
            name=name,
            config=Config(type="darts", darts_alpha=RADIUS, unroll_steps=1, **options),
            module=getattr(world, name),
            optimizer=world.optimizers[name],
            train_data_loader=[[0]],  # it cannot do without
        )

    w, a = make(Lower, "w"), make(Upper, "a", retain_graph=True)
    on_device = world.w.value.device.type
    engine = Engine(
        config=EngineConfig(
            train_iters=1, valid_step=10**9, strategy="cpu" if on_device == "cpu" else "gpu"
        ),
        problems=[w, a],
        dependencies={"u2l": {a: [w]}, "l2u": {w: [a]}},
    )
    engine.train()
    counter = itertools.count(1)

    def step() -> None:
        engine.global_step = next(counter)
        engine.train_step()

    return step


def torchopt(world: World, product: str) -> Step | None:
    if product != "exact":
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torchopt as library
    except ImportError:
        return None
    meta = library.MetaSGD(world.w, lr=LR)
    a = world.a.value

    def step() -> None:
        meta.step(world.lower(world.w(), a))
        (a.grad,) = torch.autograd.grad(world.upper(a, world.w()), a)
        world.optimizers["a"].step()
        library.stop_gradient(world.w)
        library.stop_gradient(meta)

    return step


def higher(world: World, product: str) -> Step | None:
    if product != "exact":
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import higher as library
    except ImportError:
        return None
    a = world.a.value

    def step() -> None:
        with library.innerloop_ctx(world.w, world.optimizers["w"]) as (net, optimizer):
            optimizer.step(world.lower(net(), a))
            (a.grad,) = torch.autograd.grad(world.upper(a, net()), a)
            world.optimizers["a"].step()
            with torch.no_grad():
                world.w.value.copy_(net.value)

    return step


CONTESTANTS = {
    "mlopt": ours, "hand": hand, "Betty": betty, "TorchOpt": torchopt, "higher": higher,
}  # fmt: skip

"""Faults as users write them, and their right neighbours: small engines of two levels."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from small import F64, seeded, sgd
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import mlopt
from mlopt import Central, OneStep

X = torch.linspace(-1.0, 1.5, 24, dtype=F64).reshape(8, 3)
Y = X.sum(1, keepdim=True).sin()
EXACT, CENTRAL = OneStep(lr=0.3), OneStep(lr=0.3, product=Central(1e-4))

Low = Callable[..., Any]


def network() -> nn.Module:
    return seeded(2, lambda: nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)))


def world(
    low: Low | None = None,
    up: Low | None = None,
    *,
    net: nn.Module | None = None,
    method: Any = EXACT,
    data: Any = None,
    dtype: torch.dtype = F64,
    stop: bool = False,
) -> mlopt.Engine:
    """The lower objective gets the network, a tensor of two numbers and, with data, a batch."""
    W = mlopt.Variable((net or network()).to(dtype), "w")
    R = mlopt.Variable(nn.Parameter(torch.tensor([0.2, -0.1], dtype=dtype)), "r")
    lower = mlopt.problem(
        over=W, given=[mlopt.stop(R) if stop else R], data=data, optimizer=sgd(W),
        hypergrad=method, name="low",
    )(low or plain)  # fmt: skip
    upper = mlopt.problem(over=R, given=[W], optimizer=sgd(R), name="up")(up or plain_up)
    return mlopt.Engine([lower, upper])


def fit(out: Tensor, r: Tensor, y: Tensor = Y) -> Tensor:
    return (r[0].exp() * (out - y) ** 2).mean() + (r[1] * out).mean()


def plain(w: Any, r: Tensor) -> Tensor:
    return fit(w(X), r)


def plain_up(r: Tensor, w: Any) -> Tensor:
    return ((w(X) + Y) ** 2).mean() + (r**2).sum()


def of_output(bend: Callable[[Tensor], Tensor]) -> Low:
    return lambda w, r: fit(bend(w(X)), r)


def of_argument(bend: Callable[[Tensor], Tensor]) -> Low:
    return lambda w, r: fit(w(X), bend(r))


# Backwards of their own.


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return -cotangent


class Doubled(torch.autograd.Function):
    """Wrong by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x.cos() * cotangent


class Sine(torch.autograd.Function):
    """Right, and as often differentiable as one likes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x.cos() * cotangent


class Once(Sine):
    backward = staticmethod(torch.autograd.function.once_differentiable(Sine.backward))


class Again(torch.autograd.Function):
    """Calls its module once more in backward, with the parameters that it holds then."""

    @staticmethod
    def forward(ctx: Any, module: nn.Module, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.module = module
        ctx.save_for_backward(x)
        return module(x)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            parameters = list(ctx.module.parameters())
            found = torch.autograd.grad(ctx.module(x), [x, *parameters], cotangent)
        return None, *found


def recomputed(w: Any, r: Tensor) -> Tensor:
    return fit(w[2](Again.apply(w[:2], X, *w[:2].parameters())), r)


def checkpointed(reentrant: bool) -> Low:
    return lambda w, r: fit(checkpoint(w, X.clone().requires_grad_(), use_reentrant=reentrant), r)


def rounded(h: Tensor) -> Tensor:
    return h + (torch.round(h * 4) / 4 - h).detach()


def hard(h: Tensor) -> Tensor:
    soft = h.softmax(-1)
    return nn.functional.one_hot(soft.argmax(-1), h.shape[-1]).to(soft) + soft - soft.detach()


def one_weight(w: Any, r: Tensor) -> Tensor:
    hidden = nn.functional.linear(X, Doubled.apply(w[0].weight), w[0].bias)
    return fit(w[2](hidden.tanh()), r)


def hooked(h: Tensor) -> Tensor:
    h.register_hook(lambda gradient: gradient / 2)
    return h


def penalised(by: str) -> Low:
    """A penalty on a gradient, which is taken inside the objective."""

    def low(w, r):
        x = X.clone().requires_grad_()
        loss = fit(w(x), r)
        inner = [x] if by == "x" else list(w.parameters())
        found = torch.autograd.grad(loss, inner, create_graph=True)
        return loss + 0.1 * sum((g**2).sum() for g in found)

    return low


def calls_its_engine() -> mlopt.Engine:
    made: list[mlopt.Engine] = []

    def low(w, r):
        if made:
            made[0].hypergradient(made[0].graph.problems[1])
        return plain(w, r)

    made.append(world(low))
    return made[0]


def kinked() -> nn.Module:
    return seeded(2, lambda: nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)))


# State.


class Counting(nn.Linear):
    """Another output with every call, of which it keeps count in an attribute or in a buffer."""

    def __init__(self, buffer: bool) -> None:
        super().__init__(3, 1)
        self.calls: Any = 0
        if buffer:
            del self.calls
            self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return super().forward(x) * (1 + 0.1 * self.calls)


class Dropping(nn.Module):
    """A mask from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.own = torch.Generator().manual_seed(1)

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(x.shape, generator=self.own, dtype=x.dtype) < 0.7)


def scaled(number: Callable[[], Any]) -> Low:
    return lambda w, r: fit(w(X) * (1 + number()), r)


def counter() -> Low:
    calls = 0

    def low(w, r):
        nonlocal calls
        calls += 1
        return fit(w(X) * (1 + 0.1 * (calls % 3)), r)

    return low


def listed() -> Low:
    seen: list[float] = []

    def low(w, r):
        seen.append(0.0)
        return fit(w(X) * (1 + 0.1 * len(seen)), r)

    return low


def drawn(of: str) -> Low:
    own: Any = {
        "torch": torch.Generator().manual_seed(1),
        "NumPy": np.random.default_rng(1),
        "Python": random.Random(1),
    }[of]

    def low(w, r):
        number = float(torch.rand((), generator=own)) if of == "torch" else own.random()
        return fit(w(X) * (1 + number), r)

    return low


def shifted() -> Low:
    table = X.clone()

    def low(w, r):
        table.add_(0.1)
        return fit(w(table.clone()), r)

    return low


def shared_mode() -> mlopt.Engine:
    """A frozen network that is nobody's variable, which the upper objective puts into eval mode."""
    frozen = seeded(5, lambda: nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)))
    for p in frozen.parameters():
        p.requires_grad_(False)

    def up(r, w):
        frozen.eval()
        return ((w(frozen(X)) + Y) ** 2).mean() + (r**2).sum()

    return world(lambda w, r: fit(w(frozen(X)), r), up)


# Writes.


def of_batch(write: Callable[[Tensor], Any]) -> dict[str, Any]:
    def low(w, r, batch):
        write(batch["x"])
        return fit(w(batch["x"]), r, batch["y"])

    return {"low": low, "data": [{"x": X.clone(), "y": Y}]}


def writes_weights(r: Tensor, w: Any) -> Tensor:
    with torch.no_grad():
        w[0].weight.mul_(0.5)
    return plain_up(r, w)


def writes_data(r: Tensor, w: Any) -> Tensor:
    w[0].weight.data.mul_(0.5)
    return plain_up(r, w)


def popped(w: Any, r: Tensor, batch: dict[str, Tensor]) -> Tensor:
    y = batch.pop("y")
    return fit(w(batch.pop("x")), r, y)


def looks(r: Tensor, w: Any) -> Tensor:
    w.eval()
    return plain_up(r, w)


# What is there.


def changed(change: Callable[[nn.Module, Any], Any], method: Any = EXACT) -> mlopt.Engine:
    """An engine that has taken a step before something was done to its lower network."""
    engine = world(method=method)
    engine.step()
    change(engine.graph.variables[0].value, engine.graph.problems[0].optimizer)
    return engine


def replaced(net: nn.Module, optimizer: Any) -> None:
    net[2] = seeded(7, lambda: nn.Linear(2, 1))


def replaced_and_held(net: nn.Module, optimizer: Any) -> None:
    replaced(net, optimizer)
    optimizer.add_param_group({"params": list(net[2].parameters())})


def several() -> mlopt.Engine:
    """Three problems, each with a fault of its own for which a step refuses to begin."""
    batch = {"x": X.clone(), "y": Y}
    W, V = mlopt.Variable(network(), "w"), mlopt.Variable(seeded(3, lambda: Counting(False)), "v")
    R = mlopt.Variable(nn.Parameter(torch.tensor([0.2, -0.1], dtype=F64)), "r")
    low = mlopt.problem(over=W, given=[R], data=[batch], hypergrad=EXACT, name="low")(
        lambda w, r, batch: fit(w(batch["x"].mul_(0.5)), r)
    )
    also = mlopt.problem(over=V, given=[R], hypergrad=EXACT, name="also")(plain)
    up = mlopt.problem(over=R, given=[W], name="up")(
        lambda r, w: plain_up(r, w) + (V.value.weight * r[0]).sum()
    )
    return mlopt.Engine([low, also, up])

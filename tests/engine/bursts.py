"""Engines with a loss scale, what their steps have changed, and functions whose gradient bursts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import mlopt
from mlopt import OneStep

__all__ = ["LEVELS", "Bursts", "bursting", "same", "state", "tensors"]


def state(engine: mlopt.Engine) -> dict[str, Any]:
    found = engine.state_dict()
    return {k: found[k] for k in ("variables", "optimizers", "signals", "streams", "steps")}


def tensors(held: Any) -> list[Tensor]:
    if isinstance(held, Tensor):
        return [held]
    parts = held.values() if isinstance(held, dict) else held if isinstance(held, list) else ()
    return [t for part in parts for t in tensors(part)]


def same(a: Any, b: Any) -> bool:
    pairs = list(zip(tensors(a), tensors(b), strict=True))
    return bool(pairs) and all(torch.equal(x, y) for x, y in pairs)


class Bursts(torch.autograd.Function):
    """The identity, whose gradient is multiplied by what the batch says."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, by: Tensor) -> Tensor:
        ctx.save_for_backward(by)
        return h.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (by,) = ctx.saved_tensors
        return g * by.to(g.dtype), None


LEVELS = ("train", "learn", "judge")


def bursting(plan: list[str | None], product: Any, **options: Any) -> mlopt.Engine:
    """Three levels in fp16, Adam and momentum among them; the plan says whose gradient bursts."""
    g = torch.Generator().manual_seed(2)
    x, y = torch.randn(16, 4, generator=g), torch.randint(0, 3, (16,), generator=g)
    factors = [torch.tensor([1e30 if level == at else 1.0 for level in LEVELS]) for at in plan]
    stream = mlopt.Stream(factors)
    torch.manual_seed(0)
    W = mlopt.Variable(
        nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)), "w"
    )
    V = mlopt.Variable(nn.Linear(4, 3), "v")
    R = mlopt.Variable(nn.Parameter(torch.zeros(3)), "r")
    cross_entropy = nn.functional.cross_entropy
    method = OneStep(product=product)
    momentum = torch.optim.SGD(W.parameters(), lr=0.1, momentum=0.9)
    adam = torch.optim.Adam(V.parameters(), lr=0.01)

    @mlopt.problem(over=W, given=[R], data=stream, optimizer=momentum, hypergrad=method)
    def train(w: Any, r: Tensor, by: Tensor) -> Tensor:
        h = Bursts.apply(w(x), by[0])
        return (cross_entropy(h, y, reduction="none") * r.exp()[y]).mean()

    @mlopt.problem(over=V, given=[W, R], data=stream, optimizer=adam, hypergrad=method)
    def learn(v: Any, w: Any, r: Tensor, by: Tensor) -> Tensor:
        return (Bursts.apply(v(x), by[1]) - w(x)).square().mean() * r.exp().sum()

    @mlopt.problem(over=R, given=[V], data=stream, optimizer=torch.optim.SGD([R.value], 0.1))
    def judge(r: Tensor, v: Any, by: Tensor) -> Tensor:
        return cross_entropy(Bursts.apply(v(x), by[2]), y) + r.square().sum()

    engine = mlopt.Engine([train, learn, judge], precision="fp16", **options)
    engine._failures.size = 2.0**10  # of which nothing overflows by itself
    return engine

"""Patterns of computation: recomputed, compiled, hooked, drawn, written in place."""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from engine.patterns import SAMPLES, Pattern, rows
from engine.patterns_bent import Net
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["GRAPHS"]


# Computed again.


class Checkpointed(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.how = nn.Linear(3, 3), how
        self.middle = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.3), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if self.how == "no":
            return self.middle(h)
        return checkpoint(self.middle, h, use_reentrant=self.how == "reentrant")


# Compiled, wrapped.


def compiled(backend: str) -> nn.Module:
    """A network that is compiled anew: torch gives up on code that others have compiled often."""
    torch._dynamo.reset()
    return torch.compile(Net(nn.Tanh()), backend=backend)  # type: ignore[return-value]


def scripted(trace: bool = False) -> nn.Module:
    with warnings.catch_warnings():  # it is deprecated
        warnings.simplefilter("ignore")
        if trace:
            return torch.jit.trace(Net(nn.Tanh()), torch.ones(SAMPLES, 3))
        return torch.jit.script(Net(nn.Tanh()))


class DistributedDataParallel(nn.Module):
    """As torch's, by name: to build that takes a process group."""

    def __init__(self) -> None:
        super().__init__()
        self.module = Net()

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


# Hooked, in place.


def looked_at() -> nn.Module:
    net = Net(nn.Tanh())
    net.first.register_forward_pre_hook(lambda m, args: (args[0].sin(),))
    net.between.register_forward_hook(lambda m, args, out: 2 * out)
    return net


def inplace() -> nn.Module:
    return Net(nn.Sequential(nn.Dropout(0.3, inplace=True), nn.ELU(inplace=True)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)
        h += self.two(x).tanh()
        h[:, 0] *= 2
        return h


# Drawn.


class Depth(nn.Module):
    """Layers that are left out at random, by Python's generator; noise of NumPy's."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if random.random() < 0.7:
                x = x + layer(x).tanh()
        return x + torch.from_numpy(np.random.standard_normal(3)) * x


class Experts(nn.Module):
    """Each sample goes to one of three; not all are asked."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(3, 3)
        self.experts = nn.ModuleList(nn.Linear(3, 2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        odds = self.gate(x).softmax(1)
        best = odds.argmax(1)
        out = x.new_zeros(SAMPLES, 2)
        for i, expert in enumerate(self.experts):
            if (best == i).any():
                at = (best == i).nonzero()[:, 0]
                out = out.index_add(0, at, odds[at, i : i + 1] * expert(x[at]))
        return out


# Derivatives inside.


class Penalised(nn.Module):
    """Its slope by its input beside its output: a third derivative under exact products."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        out = self.net(x)
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        return torch.cat([out, slope], 1)


class Flat(nn.Module):
    """The slope by its own weights beside its output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x).tanh()
        (slope,) = torch.autograd.grad(out.square().sum(), self.layer.weight, create_graph=True)
        return torch.cat([out, 0.1 * out @ slope], 1)


class Adapted(nn.Module):
    """One step of its own by torch.func: meta-learning inside."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        w = dict(self.net.named_parameters())

        def loss(w: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(self.net, w, (x,)).sin().square().mean()

        slope = torch.func.grad(loss)(w)
        ahead = {k: w[k] - 0.5 * slope[k] for k in w}
        return torch.func.functional_call(self.net, ahead, (x.cos(),))


class Solved(nn.Module):
    """Linear algebra inside."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        spread = self.weight @ self.weight.T + torch.eye(3, dtype=x.dtype)
        return torch.linalg.solve(spread, x.T).T + torch.linalg.eigvalsh(spread)


# What goes in and out.


@dataclass
class Out:
    logits: Tensor
    hidden: tuple[Tensor, None]


class Structured(nn.Module):
    """Keyword arguments in, nested outputs out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 2), nn.Linear(2, 1)

    def forward(self, *, x: Tensor, extra: Any = None) -> dict[str, Any]:
        h = self.first(x).tanh()
        return {"out": Out(self.last(h), (h, extra)), "loss": None}


def structured(k: int) -> dict[str, Any]:
    return {"x": rows(k), "extra": None}


def sparse_rows(k: int) -> Tensor:
    return (rows(k) * (rows(k) > 0)).to_sparse()


class SparseIn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sparse.mm(x, self.weight).sin()


def autocast(w: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return w(x).float()


GRAPHS = {
    "checkpointed": Pattern(
        lambda: Checkpointed("yes"), plain=lambda: Checkpointed("no")
    ),
    "checkpointed, reentrant": Pattern(
        lambda: Checkpointed("reentrant"), refused="low: .*use_reentrant=False"
    ),
    "compiled": Pattern(lambda: compiled("eager")),
    "compiled, ahead of time": Pattern(
        lambda: compiled("aot_eager"), said="compiled modules uncompiled"
    ),
    "compiled by inductor": Pattern(
        lambda: compiled("inductor"), said="compiled modules uncompiled"
    ),
    "scripted": Pattern(scripted, plain=lambda: Net(nn.Tanh())),
    "traced": Pattern(lambda: scripted(trace=True), plain=lambda: Net(nn.Tanh())),
    "data parallel": Pattern(lambda: nn.DataParallel(Net())),
    "distributed": Pattern(DistributedDataParallel, refused="w is a DistributedDataParallel"),
    "forward hooks": Pattern(looked_at),
    "activations in place": Pattern(inplace),
    "sums in place": Pattern(Residual),
    "python's and numpy's draws": Pattern(Depth, foreign=True),
    "experts": Pattern(Experts),
    "slope by its input": Pattern(Penalised),
    "slope by its weights": Pattern(Flat),
    "steps inside": Pattern(Adapted),
    "linear algebra": Pattern(Solved),
    "structured": Pattern(
        Structured, structured, out=lambda w, batch: w(**batch)["out"].logits
    ),
    "sparse features": Pattern(SparseIn, sparse_rows),
    "autocast": Pattern(
        lambda: Net(), lambda k: rows(k, dtype=torch.float32), out=autocast,
        cast=lambda net: net.float(), differences="it computes in bfloat16",
        dtype=torch.bfloat16,
    ),
}  # fmt: skip

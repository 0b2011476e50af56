"""A discriminator and a generator that play, by the engine and by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from compare import exact, rounding
from small import F64, batches, seeded
from torch import Tensor, nn
from torch.nn.functional import softplus

import mlopt
from mlopt import Game, OneStep


class Remembers(nn.Module):
    """A running mean that enters the output: it matters which one an evaluation finds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        out = x * (1 + self.mean)
        self.mean.mul_(0.7).add_(0.3 * x.detach().mean() + 0.1)
        return out


def net(seed: int, inputs: int, outputs: int, memory: bool) -> nn.Module:
    return seeded(
        seed,
        lambda: nn.Sequential(
            nn.Linear(inputs, 4, bias=False), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.2),
            Remembers() if memory else nn.Identity(), nn.Linear(4, outputs),
        ),
    )  # fmt: skip


OPTIMIZERS: dict[str, Callable[[list[Tensor]], Any]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.05),
}
#: Four steps or as many as six turns in three, of networks of 60 operations, forth and back.
STEPS = rounding(18 * 2 * 60, condition=2)
DATA = batches(40, seed=5)


class Gan:
    """A discriminator and a generator, for an engine or for a loop by hand."""

    def __init__(self, optimizer: str, leader: bool = False, memory: bool = True) -> None:
        self.d, self.g = net(1, 3, 1, memory), net(2, 3, 3, memory)
        self.a = nn.Parameter(torch.tensor([0.1, -0.2, 0.3], dtype=F64))
        self.D, self.G = mlopt.Variable(self.d, "d"), mlopt.Variable(self.g, "g")
        self.A = mlopt.Variable(self.a, "a")
        data = list(DATA)  # a stream of its own
        self.od = OPTIMIZERS[optimizer](list(self.d.parameters()))
        self.og = OPTIMIZERS["momentum"](list(self.g.parameters()))
        self.oa = torch.optim.SGD([self.a], lr=0.1)
        method = OneStep() if leader else None
        given = [self.A] if leader else []
        fake = (lambda x, a: x * a.exp()) if leader else (lambda x: x)

        @mlopt.problem(over=self.D, given=[self.G, *given], data=data, optimizer=self.od,
                       hypergrad=method)  # fmt: skip
        def critic(d, g, *rest):
            *a, (x, y) = rest
            return softplus(-d(x) * y).mean() + softplus(d(g(fake(x, *a)))).mean()

        @mlopt.problem(over=self.G, given=[self.D, *given], data=data, optimizer=self.og,
                       hypergrad=method)  # fmt: skip
        def maker(g, d, *rest):
            *a, (x, _) = rest
            return softplus(-d(g(fake(x, *a)))).mean() + 0.1 * g(x).square().mean()

        @mlopt.problem(over=self.A, given=[self.G, self.D], optimizer=self.oa)
        def leads(a, g, d):
            x, _ = DATA[-1]
            return d(g(x)).mean() + a.square().sum()

        self.critic, self.maker, self.leads = critic, maker, leads
        self.top = [leads] if leader else []

    def engine(self, play: Any, **options: Any) -> mlopt.Engine:
        for p in (self.critic, self.maker):
            if play is not None and play.traced:
                p.hypergrad = None
        return mlopt.Engine([Game([self.critic, self.maker], play), *self.top], **options)

    # By hand.

    def gradient(self, who: Any, batch: Any, seed: int) -> tuple[list[Tensor], dict[str, Tensor]]:
        """A player's partial gradient and the buffers that it has written; nothing changes."""
        own, other = (self.d, self.g) if who is self.critic else (self.g, self.d)
        before = [{k: b.clone() for k, b in m.named_buffers()} for m in (own, other)]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            a = [self.a] if self.top else []
            loss = who.fn(own, other, *a, batch)
        grads = torch.autograd.grad(loss, list(own.parameters()))
        written = {k: b.clone() for k, b in own.named_buffers()}
        for m, kept in zip((own, other), before, strict=True):
            self.put(m, kept)
        return list(grads), written

    @staticmethod
    def put(module: nn.Module, buffers: dict[str, Tensor]) -> None:
        for name, b in module.named_buffers():
            b.copy_(buffers[name])

    def move(self, who: Any, grads: list[Tensor], written: dict[str, Tensor] | None) -> None:
        module, optimizer = (self.d, self.od) if who is self.critic else (self.g, self.og)
        for p, g in zip(module.parameters(), grads, strict=True):
            p.grad = g
        optimizer.step()
        if written is not None:
            self.put(module, written)

    def check(self, other: Gan) -> None:
        for mine, theirs in ((self.d, other.d), (self.g, other.g)):
            for (name, x), y in zip(
                mine.state_dict().items(), theirs.state_dict().values(), strict=True
            ):
                exact(y, x, STEPS, what=name)
        for mine, theirs in ((self.od, other.od), (self.og, other.og)):
            x, y = mine.state_dict()["state"], theirs.state_dict()["state"]
            assert x.keys() == y.keys()
            for key, held in x.items():
                assert held.keys() == y[key].keys()
                for name, t in held.items():
                    if isinstance(t, Tensor):
                        exact(y[key][name], t, STEPS, what=name)
                    else:
                        assert t == y[key][name]

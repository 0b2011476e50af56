"""Graphs of two and three levels in float32, which may be computed in less."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mlopt

__all__ = ["World", "net"]


def net(seed: int = 0, dtype: torch.dtype = torch.float32, device: Any = "cpu") -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        made = nn.Sequential(
            nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Softplus(), nn.Linear(16, 3)
        )
    return made.to(device, dtype)


def data(seed: int, dtype: torch.dtype, device: Any = "cpu") -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(24, 6, generator=g, dtype=torch.float64).to(dtype)
    return x.to(device), torch.randint(0, 3, (24,), generator=g).to(device)


@dataclass
class World:
    """A network trained under weights of its classes, a signal of it, and a judge of both.

    With `middle`, a problem between the two chooses the weights, and the judge is over its own.
    """

    method: Any = field(default_factory=mlopt.OneStep)
    dtype: torch.dtype = torch.float32
    middle: Any = None
    low: dict[str, Any] = field(default_factory=dict)
    signal: dict[str, Any] = field(default_factory=dict)
    lr: float = 0.1
    device: torch.device = torch.device("cpu")

    def __post_init__(self) -> None:
        d, at = self.dtype, self.device
        (x, y), (xm, ym), (xv, yv) = (data(seed, d, at) for seed in (1, 3, 2))
        self.W = mlopt.Variable(net(0, d, at), "w")
        self.R = mlopt.Variable(nn.Parameter(torch.linspace(-0.3, 0.4, 3, dtype=d, device=at)), "r")
        #: (name, whether autocast is on, dtype of what it computes) of every call
        self.calls: list[tuple[str, bool, torch.dtype]] = []

        def call(name: str, out: Tensor) -> Tensor:
            self.calls.append((name, torch.is_autocast_enabled(at.type), out.dtype))
            return out

        sgd = torch.optim.SGD(self.W.parameters(), lr=self.lr)
        # Under a middle problem the weights are its own.
        self.V = mlopt.Variable(nn.Parameter(torch.linspace(0.2, -0.1, 3, dtype=d, device=at)), "v")
        weights = self.R if self.middle is None else self.V

        @mlopt.problem(
            over=self.W, given=[weights], optimizer=sgd, hypergrad=self.method, **self.low
        )
        def train(w: Any, v: Tensor) -> Tensor:
            z = mlopt.outputs(call("train", w(x)))
            losses = cross_entropy(z, y, reduction="none")
            trained = [p for p in w.parameters() if p.dtype != torch.bfloat16]
            return (losses * v.exp()[y]).mean() + sum(p.square().sum() for p in trained) / 50

        @mlopt.signal(given=[self.W], **self.signal)
        def answers(w: Any) -> Tensor:
            return call("answers", w(xv))

        @mlopt.problem(
            over=self.V, given=[self.W, self.R], hypergrad=self.middle,
            optimizer=torch.optim.SGD([self.V.value], lr=self.lr),
        )  # fmt: skip
        def learn(v: Tensor, w: Any, r: Tensor) -> Tensor:
            losses = cross_entropy(call("learn", w(xm)), ym, reduction="none")
            return (losses * r.exp()[ym]).mean() + v.square().sum() / 10

        @mlopt.problem(
            over=self.R, given=[self.W, answers], optimizer=torch.optim.SGD([self.R.value], lr=0.1)
        )
        def judge(r: Tensor, w: Any, seen: Tensor) -> Tensor:
            assert seen.dtype in (d, torch.float64)
            return cross_entropy(call("judge", w(xv)) + seen, yv) + r.square().sum() / 100

        middle = [] if self.middle is None else [learn]
        self.nodes: list[Any] = [train, answers, *middle, judge]
        self.train, self.answers, self.learn, self.judge = train, answers, learn, judge

    def engine(self, precision: Any = None, **options: Any) -> mlopt.Engine:
        return mlopt.Engine(self.nodes, precision=precision, **options)

    def hypergradient(self, precision: Any = None) -> Tensor:
        return self.engine(precision).hypergradient(self.judge)[self.R][""]

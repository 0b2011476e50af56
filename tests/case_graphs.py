"""Graphs of two and more levels, small and smooth, for any method and optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

import mlopt

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW


# Graphs.


@dataclass
class GraphRow:
    """A graph of problems: all that the tests need of it."""

    nodes: list[Any]
    upper: Any
    lowers: list[Any]
    batches: dict[Any, Any] = field(default_factory=dict)

    def batch(self, node: Any) -> Any:
        return self.batches[node]


Optimizer = Callable[[list[Tensor]], torch.optim.Optimizer]
Method = Callable[[], mlopt.AbstractHypergradient]


def tensor(device: torch.device, seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    """Random numbers that are the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(device)


def parameter(device: torch.device, seed: int, *shape: int) -> nn.Parameter:
    return nn.Parameter(tensor(device, seed, *shape))


def module(module: nn.Module, device: torch.device, seed: int) -> nn.Module:
    """The module in float64 on the device, its parameters from the seed."""
    module.double()
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.copy_(tensor(torch.device("cpu"), seed + 100 * i, *p.shape, scale=0.7))
    return module.to(device)


def bilevel_tensor(device: torch.device, method: Method, optimizer: Optimizer) -> GraphRow:
    """One lower problem over a tensor, cubic terms everywhere."""
    W = mlopt.Variable(parameter(device, 1, 4), "w")
    A = mlopt.Variable(parameter(device, 2, 3), "a")
    m = tensor(device, 3, 4, 3)

    @mlopt.problem(over=W, given=[A], optimizer=optimizer(W.parameters()), hypergrad=method())
    def lower(w, a):
        return (torch.tanh(w * (m @ a)) + 0.3 * w**3 * (m @ a**2)).sum() + (w**2).sum()

    @mlopt.problem(over=A, given=[W], optimizer=SGD(A.parameters(), lr=0.1))
    def upper(a, w):
        return (torch.sin(w) * (m @ a)).sum() + (a**2).sum()

    return GraphRow([lower, upper], upper, [lower])


def bilevel_module(device: torch.device, method: Method, optimizer: Optimizer) -> GraphRow:
    """Modules on both levels, one parameter tied, one frozen, one unused, one not optimized."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)
            self.twin = nn.Linear(4, 4)
            self.again = nn.Linear(4, 4)
            self.again.weight = self.twin.weight
            self.unused = nn.Parameter(torch.zeros(2))
            self.still = nn.Parameter(torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.tanh(self.first(x))
            hidden = torch.tanh(self.again(torch.tanh(self.twin(hidden)))) + self.still
            return self.last(hidden).squeeze(-1)

    net = module(Net(), device, 5)
    net.first.bias.requires_grad_(False)
    W = mlopt.Variable(net, "w")
    A = mlopt.Variable(module(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), device, 6), "a")
    train = [(tensor(device, 8, 5, 3), tensor(device, 9, 5))]
    valid = [(tensor(device, 10, 5, 3), tensor(device, 11, 5))]
    held = [p for p in net.parameters() if p is not net.still]

    @mlopt.problem(over=W, given=[A], data=train, optimizer=optimizer(held), hypergrad=method())
    def lower(w, a, batch):
        x, y = batch
        return ((w(a(x)) - y) ** 2).mean(), {"largest": x.max()}

    @mlopt.problem(over=A, given=[W], data=valid, optimizer=SGD(A.parameters(), lr=0.1))
    def upper(a, w, batch):
        x, y = batch
        return softplus(w(a(x)) * y).mean()

    return GraphRow([lower, upper], upper, [lower], {lower: train[0], upper: valid[0]})


def hyperparameter(device: torch.device, method: Method, optimizer: Optimizer) -> GraphRow:
    """An upper objective that does not contain its own variable: everything comes through."""
    W = mlopt.Variable(parameter(device, 21, 4), "w")
    R = mlopt.Variable(parameter(device, 22, 4), "r")
    target = tensor(device, 23, 4)

    @mlopt.problem(over=W, given=[R], optimizer=optimizer(W.parameters()), hypergrad=method())
    def ridge(w, r):
        return torch.cosh(w - target).sum() + (softplus(r) * w**2).sum() / 2

    @mlopt.problem(over=R, given=[W], optimizer=SGD(R.parameters(), lr=0.1))
    def validation(r, w):
        return ((w - 2 * target) ** 2).sum()

    return GraphRow([ridge, validation], validation, [ridge])


def signals(device: torch.device, method: Method, optimizer: Optimizer) -> GraphRow:
    """Two teachers, chained signals of every kind, a student over a list of variables."""
    A = mlopt.Variable(parameter(device, 31, 3), "a")
    V = [mlopt.Variable(parameter(device, 32 + k, 3), f"v{k}") for k in range(2)]
    W = [mlopt.Variable(parameter(device, 35 + k, 3), f"w{k}") for k in range(2)]
    mix = tensor(device, 38, 3, 3)

    def teacher(k: int) -> Any:
        @mlopt.problem(
            over=V[k],
            given=[A],
            optimizer=optimizer(V[k].parameters()),
            hypergrad=method(),
            name=f"teacher{k}",
        )
        def fit(v, a):
            return torch.tanh(mix @ v * (k + 1) * a).sum() + 0.3 * (v**4).sum() + (v * a**2).sum()

        return fit

    teachers = [teacher(k) for k in range(2)]

    @mlopt.signal(given=[V, A])
    def pair(v, a):
        return torch.sin(v[0] * a), v[1] * v[0]

    @mlopt.signal(given=[pair, V[1]])
    def table(pair, v1):
        return {"weights": torch.softmax(pair[0] + v1, 0), "order": torch.tensor([2, 0, 1])}

    students = [p for w in W for p in w.parameters()]

    @mlopt.problem(
        over=W, given=[A, [table, pair]], optimizer=optimizer(students), hypergrad=method()
    )
    def student(w, a, taught):
        table, pair = taught
        ordered = table["weights"][table["order"].to(a.device)]
        return (ordered * torch.cosh(w[0] - a)).sum() + torch.sin(w[1] * w[0] * pair[1]).sum()

    @mlopt.problem(over=A, given=[W, mlopt.stop(pair)], optimizer=SGD(A.parameters(), lr=0.1))
    def upper(a, w, pair):
        return (a * w[0] * pair[0]).sum() + (torch.tanh(w[1]) * a**2).sum()

    nodes = [*teachers, pair, table, student, upper]
    return GraphRow(nodes, upper, [*teachers, student])


def ladder(device: torch.device, method: Method, optimizer: Optimizer, depth: int = 3) -> GraphRow:
    """Two problems a level, each reading both of the level below: 2^depth paths, 2 depth nodes."""
    A = mlopt.Variable(parameter(device, 41, 3), "a")
    mix = tensor(device, 42, 3, 3, scale=0.5)
    below: list[Any] = []
    lowers: list[Any] = []
    for level in range(depth):
        row = [
            mlopt.Variable(parameter(device, 43 + 2 * level + side, 3), f"w{level}{side}")
            for side in range(2)
        ]
        for side in range(2):
            lowers.append(_rung(row[side], A, below, mix * (1 + side), method(), optimizer))
        below = row

    @mlopt.problem(over=A, given=[below], optimizer=SGD(A.parameters(), lr=0.1))
    def top(a, w):
        return (torch.sin(w[0]) * w[1] * a).sum() + (a**2).sum()

    return GraphRow([*lowers, top], top, lowers)


def _rung(over: Any, A: Any, below: list[Any], mix: Tensor, method: Any, optimizer: Any) -> Any:
    given = [A, below] if below else [A]

    @mlopt.problem(
        over=over,
        given=given,
        optimizer=optimizer(over.parameters()),
        hypergrad=method,
        name=f"fit_{over.name}",
    )
    def fit(w, a, lower=()):
        x = a + sum(torch.sin(u) for u in lower)
        return torch.tanh(mix @ w * x).sum() + torch.cosh(w - x).sum()

    return fit

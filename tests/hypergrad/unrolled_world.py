"""A network on batches, a penalty that is tuned, and the same steps by hand."""

from __future__ import annotations

import copy
from typing import Any

import torch
from case_graphs import module, parameter, tensor
from torch import Tensor, nn

import mlopt

CPU = torch.device("cpu")
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.02, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}


def batches(count: int = 12) -> list[tuple[Tensor, Tensor]]:
    return [(tensor(CPU, 100 + i, 5, 3), tensor(CPU, 200 + i, 5, 2)) for i in range(count)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(self.first(x))))


def world(method: Any, optimizer: str = "momentum", data: Any = None) -> dict[str, Any]:
    """A network on batches, a penalty that is tuned, and a signal made from the same batch."""
    W = mlopt.Variable(module(Net(), CPU, 1), "w")
    R = mlopt.Variable(parameter(CPU, 2, 2), "r")
    data = batches() if data is None else data

    @mlopt.signal(given=[R], data=data)
    def target(r, batch):
        _, y = batch
        return torch.sin(y * r)

    @mlopt.problem(over=W, given=[R, target], data=data, hypergrad=method,
                   optimizer=OPTIMIZERS[optimizer](W.parameters()))  # fmt: skip
    def train(w, r, target, batch):
        x, _ = batch
        return ((w(x) - target) ** 2).mean() + r.exp().sum() * sum(
            (p**2).sum() for p in w.parameters()
        )

    @mlopt.problem(over=R, given=[W], optimizer=torch.optim.SGD(R.parameters(), lr=0.1))
    def valid(r, w):
        x, y = batches(20)[-1]
        return ((w(x) - y) ** 2).mean() + (r**4).sum()

    engine = mlopt.Engine([target, train, valid])
    return {"W": W, "R": R, "train": train, "valid": valid, "engine": engine, "target": target}


def plain_steps(w: dict[str, Any], data: list[Any], optimizer: str, steps: int) -> nn.Module:
    """The same steps by torch's own loop."""
    net = copy.deepcopy(w["W"].value)
    r = w["R"].value.detach()
    real = OPTIMIZERS[optimizer](list(net.parameters()))
    for batch in data[:steps]:
        real.zero_grad()
        w["train"].fn(net, r, w["target"].fn(r, batch), batch).backward()
        real.step()
    return net


def meta(method: Any, repeat: int = 3) -> dict[str, Any]:
    Theta = mlopt.Variable(module(nn.Linear(3, 2), CPU, 5), "theta")
    W = mlopt.Variable(module(nn.Linear(3, 2), CPU, 6), "w")
    support, query = batches()[0], batches()[1]

    @mlopt.problem(over=W, hypergrad=method(Theta),
                   optimizer=torch.optim.SGD(W.parameters(), lr=0.3))  # fmt: skip
    def adapt(w):
        return ((torch.tanh(w(support[0])) - support[1]) ** 2).mean()

    @mlopt.problem(over=Theta, given=[W], optimizer=torch.optim.SGD(Theta.parameters(), lr=0.1))
    def outer(theta, w):
        return ((torch.tanh(w(query[0])) - query[1]) ** 2).mean()

    return {"Theta": Theta, "W": W, "adapt": adapt, "outer": outer}

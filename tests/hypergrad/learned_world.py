"""A ridge whose optimizer's numbers are learned, and the same steps by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from case_graphs import parameter, tensor
from torch import Tensor, nn

import mlopt

CPU = torch.device("cpu")
X, Y, XV, YV = (tensor(CPU, i, *shape) for i, shape in enumerate([(6, 3), (6,), (6, 3), (6,)]))
#: Where the number starts, and the other numbers of its optimizer.
STARTS = {"lr": 0.1, "weight_decay": 0.2, "momentum": 0.6, "dampening": 0.3, "betas": 0.6}
#: A step of six rows, forth and back twice, and the update: terms that cancel to a tenth.
STEP = 2 * 2 * 10 + 20


def number(start: Any) -> nn.Parameter:
    return nn.Parameter(torch.tensor(start, dtype=torch.float64))


def sgd(parameters: Any, **numbers: Any) -> torch.optim.Optimizer:
    own = {"lr": 0.1, "momentum": 0.5, "dampening": 0.2, "weight_decay": 0.1}
    return torch.optim.SGD(parameters, **{**own, **numbers})


def adam(parameters: Any, **numbers: Any) -> torch.optim.Optimizer:
    if (beta := numbers.pop("betas", None)) is not None:
        numbers["betas"] = (beta, torch.tensor(0.9, dtype=torch.float64))
    own = {"lr": 0.1, "betas": (0.5, 0.9), "eps": 0.1, "weight_decay": 0.1}
    return torch.optim.Adam(parameters, foreach=False, **{**own, **numbers})


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": sgd, "adam": adam}


def fit(w: Tensor, h: Tensor, loss: bool) -> Tensor:
    value = ((X @ w - Y) ** 2).mean()
    return value + h * torch.cos(w).sum() if loss else value


def judge(w: Tensor) -> Tensor:
    return ((XV @ w - YV) ** 2).mean()


def stepped(kind: str, option: str, w: Tensor, h: Tensor, steps: int, **how: Any) -> Tensor:
    """Plain steps of torch's formulas, which autograd goes back through.

    Args:
        kind: of optimizer.
        option: what h is.
        w: where they start.
        h: the number.
        steps: how many.
        **how: `loss`: whether h is in the objective too; `constant`: of how many steps, the first
            ones, there is no gradient; `dampening`, where it is another.
    """
    numbers: dict[str, Any] = {
        "lr": 0.1, "weight_decay": 0.1, "momentum": 0.5, "betas": 0.5,
        "dampening": how.get("dampening", 0.2), option: h,
    }  # fmt: skip
    lr, decay, b1 = numbers["lr"], numbers["weight_decay"], numbers["betas"]
    w = w.detach().clone().requires_grad_()
    first = second = torch.zeros_like(w)
    for k in range(steps):
        if k == how.get("constant", 0):
            w, first, second = (t.detach() for t in (w, first, second))
            w.requires_grad_()
        loss = fit(w, h, how.get("loss", False))
        d = torch.autograd.grad(loss, w, create_graph=True)[0] + decay * w
        if kind == "sgd":
            fresh = 1 - numbers["dampening"]
            first = numbers["momentum"] * first + fresh * d if k else d
            w = w - lr * first
        else:
            first, second = b1 * first + (1 - b1) * d, 0.9 * second + (1 - 0.9) * d**2
            root = (second / (1 - 0.9 ** (k + 1))).sqrt() + 0.1
            w = w - lr / (1 - b1 ** (k + 1)) * first / root
    return w


class World:
    """Two levels: w with h a number of its optimizer, and h by what w comes to."""

    def __init__(self, method: Any, kind: str, option: str, **how: Any) -> None:
        self.W = mlopt.Variable(parameter(CPU, 5, 3), "w")
        self.H = mlopt.Variable(number(how.get("start", STARTS[option])), "h")
        optimizer = OPTIMIZERS[kind](self.W.parameters(), **{option: self.H.tensor})
        loss, read = how.get("loss", False), mlopt.stop(self.H) if "stop" in how else self.H
        if "declared" in how:
            read = []

        @mlopt.problem(over=self.W, given=[read] if read else [], optimizer=optimizer,
                       hypergrad=method, **how.get("options", {}))  # fmt: skip
        def low(w, *h):
            return fit(w, *h, loss=True) if loss else fit(w, w, loss=False)

        @mlopt.problem(
            over=self.H, given=[self.W], optimizer=torch.optim.SGD(self.H.parameters(), lr=1e-3)
        )
        def up(h, w):
            return judge(w)

        self.low, self.up = low, up

    def engine(self) -> mlopt.Engine:
        return mlopt.Engine([self.low, self.up])

    def hypergradient(self) -> Tensor:
        return self.engine().hypergradient(self.up)[self.H][""]

    def expected(self, kind: str, option: str, steps: int, **how: Any) -> Tensor:
        h = self.H.tensor.detach().clone().requires_grad_()
        w = stepped(kind, option, self.W.tensor, h, steps, **how)
        return torch.autograd.grad(judge(w), h)[0]

"""SGL on smooth networks: the graph that `examples/sgl_darts.py` builds, and an oracle of it.

The oracle is the equations of the paper as one differentiable program of plain tensors, with a copy
of A_k for every place where it stands: the derivative by one copy is one term.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mlopt
import sgl_darts
from mlopt import OneStep, StopGradient
from support.settings import Settings

F64 = torch.float64
#: Where A_k stands: in stage III, in its own stage II, in its pseudo-labels, in its stage I.
PLACES = ("direct", "own", "labels", "teacher")
GROUPS = (2, 3, 5)
RATES = (0.1, 1.0)


class Mixture(nn.Module):
    """An architecture with smooth weights, all of them different."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.randn(4))

    def forward(self) -> Tensor:
        return torch.tanh(self.alpha)


class Net(nn.Module):
    """A hidden layer whose units the architecture scales."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)) * weights)


class World:
    """K learners with the example's graph over one batch of each kind."""

    def __init__(self, group: int, lr: float = 0.1, **settings: Any) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(group)
            self.nets: list[Any] = [
                sgl_darts.Networks(Mixture().double(), Net().double(), Net().double())  # type: ignore[arg-type]
                for _ in range(group)
            ]
            labels = torch.tensor([0, 1, 2, 2, 1, 0, 1])
            self.train = (torch.randn(7, 3, dtype=F64), labels)
            self.valid = (torch.randn(7, 3, dtype=F64), labels.flip(0))
            self.images = torch.randn(5, 3, dtype=F64)
        # a weight of the pseudo-labels at which no term is hidden by another one
        self.s = Settings(**{"lr": lr, "lambda_": 0.7, "product": "exact", **settings})
        self.engine = sgl_darts.sgl(self.nets, [self.train], [self.valid], [self.images], self.s)
        self.group = range(group)

    @property
    def nodes(self) -> list[Any]:
        return list(self.engine.graph.nodes)

    def problem(self, name: str, k: int) -> Any:
        (found,) = (n for n in self.nodes if n.name == f"learner_{k + 1}/{name}")
        return found

    def hypergradient(self, live: tuple[int, ...] | None = None, taught: bool = True) -> list[Any]:
        """Of every A_k. Only the W_j of `live` carry gradient, and the V_j only if `taught`."""
        for k in self.group:
            method = self.method()
            moves = live is None or k in live
            self.problem("stage2", k).hypergrad = method if moves else StopGradient(method)
            self.problem("stage1", k).hypergrad = method if taught else StopGradient(method)
        engine = mlopt.Engine(self.nodes)
        (last,) = (n for n in engine.graph.nodes if n.name == "stage3")
        found = engine.hypergradient(last)
        return [found[a]["alpha"] for a in last.over]

    def method(self) -> mlopt.AbstractHypergradient:
        exact = self.s.product == "exact"
        return OneStep(product=mlopt.Exact() if exact else mlopt.Central(self.s.radius))


# The oracle: no module, no optimizer and nothing of the engine.


def net(w: dict[str, Tensor], x: Tensor, alpha: Tensor) -> Tensor:
    hidden = torch.tanh(x @ w["first.weight"].T + w["first.bias"]) * torch.tanh(alpha)
    return hidden @ w["last.weight"].T + w["last.bias"]


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * (logits - logits.logsumexp(-1, keepdim=True))).sum(-1).mean()


def values(module: nn.Module) -> dict[str, Tensor]:
    return {k: p.detach().clone().requires_grad_() for k, p in module.named_parameters()}


def descend(
    world: World, module: nn.Module, problem: Any, w: dict[str, Tensor], loss: Tensor
) -> Any:
    """SGD with momentum and weight decay, one step, at the rate where the schedule stands."""
    s, out = world.s, {}
    lr = problem.optimizer.param_groups[0]["lr"]
    grads = torch.autograd.grad(loss, list(w.values()), create_graph=True)
    for (name, p), g in zip(module.named_parameters(), grads, strict=True):
        buffer = problem.optimizer.state.get(p, {}).get("momentum_buffer", torch.zeros_like(p))
        out[name] = p.detach() - lr * (s.momentum * buffer + g + s.weight_decay * p.detach())
    return out


def program(world: World) -> tuple[list[Tensor], list[dict[str, Tensor]], list[Any]]:
    """Look-aheads W', the places of each A_k, and each learner's validation loss (Eq. 3)."""
    a = [
        {place: nets.a.alpha.detach().clone().requires_grad_() for place in PLACES}
        for nets in world.nets
    ]
    (x, y), (x_valid, y_valid), u = world.train, world.valid, world.images
    labels = []
    for k, nets in enumerate(world.nets):
        v = values(nets.v)
        loss = cross_entropy(net(v, x, a[k]["teacher"]), y)  # Eq. 1
        ahead = descend(world, nets.v, world.problem("stage1", k), v, loss)
        labels.append(torch.softmax(net(ahead, u, a[k]["labels"]), -1))
    losses, aheads = [], []
    for k, nets in enumerate(world.nets):
        w = values(nets.w)
        loss = cross_entropy(net(w, x, a[k]["own"]), y)  # Eq. 2
        for j in world.group:
            if j != k:
                taught = soft_cross_entropy(net(w, u, a[k]["own"]), labels[j])
                loss = loss + world.s.lambda_ * taught
        aheads.append(descend(world, nets.w, world.problem("stage2", k), w, loss))
        losses.append(cross_entropy(net(aheads[k], x_valid, a[k]["direct"]), y_valid))
    return losses, a, aheads


def terms(world: World) -> dict[tuple[str, int, int], Tensor]:
    """(place, k, j): the derivative of learner j's validation loss by A_k at that place."""
    losses, a, _ = program(world)
    found = {}
    for j, loss in enumerate(losses):
        for k in world.group:
            grads = torch.autograd.grad(
                loss, list(a[k].values()), retain_graph=True, allow_unused=True
            )
            for place, g in zip(PLACES, grads, strict=True):
                if g is not None:
                    found[place, k, j] = g
    return found


def sum_of(terms: dict[tuple[str, int, int], Tensor], k: int) -> Tensor:
    """The terms of A_k's hypergradient as one."""
    return torch.stack([t for (_, learner, _), t in terms.items() if learner == k]).sum(0)

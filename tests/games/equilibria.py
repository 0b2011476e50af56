"""Games at their equilibrium, and the derivative of it in plain autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from case_graphs import tensor
from torch import Tensor, nn

import mlopt

CPU = torch.device("cpu")

#: (own, all players, t) -> F
Objective = Callable[[Tensor, Sequence[Tensor], Tensor], Tensor]


def quadratic(sizes: Sequence[int], parameters: int) -> tuple[list[Objective], Tensor, Tensor]:
    """F_p = w_p' (J w)_p - w_p' J_pp w_p / 2 - w_p' (B t)_p, whose conditions are J w = B t.

    J has a symmetric part that is positive definite, and blocks beside the diagonal that are not
    those of a symmetric matrix.
    """
    total = sum(sizes)
    J = 0.4 * tensor(CPU, 70, total, total) + 2 * torch.eye(total, dtype=torch.float64)
    B = tensor(CPU, 71, total, parameters)
    parts = list(torch.arange(total).split(list(sizes)))
    for part in parts:
        J[part[0] : part[-1] + 1, part] = (J[part][:, part] + J[part][:, part].T) / 2

    def objective(p: int) -> Objective:
        rows, part = J[parts[p]], parts[p]

        def fn(own: Tensor, players: Sequence[Tensor], t: Tensor) -> Tensor:
            others = torch.cat([own if i == p else w for i, w in enumerate(players)])
            return own @ (rows @ others - rows[:, part] @ own / 2 - B[part] @ t)

        return fn

    return [objective(p) for p in range(len(sizes))], J, B


def curved(sizes: Sequence[int], parameters: int) -> list[Objective]:
    """The same with what is not quadratic in anything."""
    plain, _, _ = quadratic(sizes, parameters)
    mixes = [tensor(CPU, 80 + p, n, sum(sizes), scale=0.3) for p, n in enumerate(sizes)]

    def objective(p: int) -> Objective:
        def fn(own: Tensor, players: Sequence[Tensor], t: Tensor) -> Tensor:
            everything = torch.cat([own if i == p else w for i, w in enumerate(players)])
            bend = (torch.cosh(own) * (1 + 0.1 * t.sum() ** 2)).sum()
            return plain[p](own, players, t) + bend + (own * torch.sin(mixes[p] @ everything)).sum()

        return fn

    return [objective(p) for p in range(len(sizes))]


def conditions(objectives: Sequence[Objective], sizes: Sequence[int], w: Tensor, t: Tensor) -> Any:
    """Each player's gradient by its own variables, all as one vector; differentiable."""
    players = w.split(list(sizes))
    found = []
    for p, fn in enumerate(objectives):
        own = players[p].view_as(players[p])
        (g,) = torch.autograd.grad(fn(own, players, t), own, create_graph=True)
        found.append(g)
    return torch.cat(found)


def jacobians(
    objectives: Sequence[Objective], sizes: Sequence[int], w: Tensor, t: Tensor
) -> tuple[Tensor, Tensor]:
    """J and d/dt of the conditions."""
    return torch.autograd.functional.jacobian(
        lambda w, t: conditions(objectives, sizes, w, t), (w, t)
    )


def balance(objectives: Sequence[Objective], sizes: Sequence[int], t: Tensor) -> Tensor:
    """The equilibrium, by Newton's method."""
    w = torch.zeros(sum(sizes), dtype=t.dtype)
    for _ in range(12):
        J, _ = jacobians(objectives, sizes, w, t)
        again = w.clone().requires_grad_()
        w = w - torch.linalg.solve(J, conditions(objectives, sizes, again, t).detach())
    return w


class World:
    """Players at their equilibrium, and a leader who reads some of them.

    Args:
        objectives: of the players.
        sizes: of their variables.
        parameters: of the leader's.
        method: of each player, or of all.
        read: those that the leader reads.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        sizes: Sequence[int],
        parameters: int,
        method: Any,
        read: Sequence[int] | None = None,
    ) -> None:
        self.objectives, self.sizes = objectives, sizes
        t = tensor(CPU, 72, parameters)
        self.W = [
            mlopt.Variable(nn.Parameter(w.clone()), f"w{p}")
            for p, w in enumerate(balance(objectives, sizes, t).split(list(sizes)))
        ]
        self.T = mlopt.Variable(nn.Parameter(t), "t")
        methods = method if isinstance(method, list) else [method] * len(sizes)
        self.players = [self._player(p, methods[p]) for p in range(len(sizes))]
        self.read = list(range(len(sizes))) if read is None else list(read)
        self.top = mlopt.problem(
            over=self.T,
            given=[[self.W[p] for p in self.read]],
            optimizer=torch.optim.SGD(self.T.parameters(), lr=0.1),
            name="lead",
        )(self.lead)

    @staticmethod
    def lead(t: Tensor, seen: Sequence[Tensor]) -> Tensor:
        return sum(((w**2).sum() + w.sum() * (1 + i) for i, w in enumerate(seen)), (t**2).sum())

    def _player(self, p: int, method: Any) -> Any:
        others = [w for i, w in enumerate(self.W) if i != p]

        def fn(own: Tensor, rest: Sequence[Tensor], t: Tensor) -> Tensor:
            rest = list(rest)
            return self.objectives[p](own, [*rest[:p], own, *rest[p:]], t)

        return mlopt.problem(
            over=self.W[p],
            given=[others, self.T],
            optimizer=torch.optim.SGD(self.W[p].parameters(), lr=0.1),
            hypergrad=method,
            name=f"player{p}",
        )(fn)

    def engine(self, **options: Any) -> mlopt.Engine:
        return mlopt.Engine([mlopt.Game(self.players), self.top], **options)

    def found(self, **options: Any) -> Tensor:
        return self.engine(**options).hypergradient(self.top)[self.T][""]

    def expected(self, damping: Sequence[float] | None = None) -> tuple[Tensor, float]:
        """The whole derivative through the equilibrium, and the condition of what is solved."""
        w = torch.cat([v.value.detach() for v in self.W])
        t = self.T.value.detach()
        J, by_t = jacobians(self.objectives, self.sizes, w, t)
        if damping is not None:
            each = [torch.full((n,), d, dtype=w.dtype) for n, d in zip(self.sizes, damping)]  # noqa: B905
            J = J + torch.diag(torch.cat(each))

        def lead(w: Tensor, t: Tensor) -> Tensor:
            players = w.split(list(self.sizes))
            return self.lead(t, [players[p] for p in self.read])

        by_w, direct = torch.autograd.functional.jacobian(lead, (w, t))
        return direct - by_t.T @ torch.linalg.solve(J.T, by_w), float(torch.linalg.cond(J))

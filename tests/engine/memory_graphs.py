"""Small engines of every kind for the law of memory: each function makes one, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import mse_loss

import mlopt
from mlopt import CG, Central, Implicit, Neumann, OneSided, OneStep, Unrolled
from mlopt.games import Alternating, Extragradient

F64 = torch.float64

METHODS: dict[str, Any] = {
    "exact": OneStep(),
    "central": OneStep(product=Central()),
    "one-sided": OneStep(product=OneSided()),
    "plain step": OneStep(lr=0.05),
    "sama": mlopt.Sama(),
    "unrolled": Unrolled(2),
    "recomputed": Unrolled(2, recompute=True),
    "truncated": Unrolled(3, truncate=1),
    "implicit": Implicit(CG(2), damping=1.0),
    "stopped": mlopt.StopGradient(OneStep()),
}
#: Methods that no nested level can use.
STAGED: dict[str, Any] = {
    **METHODS,
    "zeroth order": mlopt.ZerothOrder(),
    # The Hessian of a neuron behind a batch norm is indefinite; a series needs a definite matrix.
    "neumann": Implicit(Neumann(3, scale=1e-3), curvature=mlopt.GaussNewton(), damping=1.0),
    "gauss-newton": Implicit(CG(2), curvature=mlopt.GaussNewton(), damping=1.0),
    "frozen": mlopt.Frozen(),
}


def variable(name: str, *shape: int) -> mlopt.Variable:
    return mlopt.Variable(nn.Parameter(torch.full(shape, 0.1, dtype=F64)), name)


def network(name: str, norm: bool = True) -> mlopt.Variable:
    """A neuron, as each further tensor costs in every derivative of every step.

    Nested levels take third derivatives, which torch's batch norm has not.
    """
    torch.manual_seed(0)
    layers = [nn.Linear(3, 1), *([nn.BatchNorm1d(1)] if norm else []), nn.Tanh(), nn.Dropout(0.2)]
    return mlopt.Variable(nn.Sequential(*layers).to(F64), name)


def sgd(v: mlopt.Variable) -> torch.optim.Optimizer:
    return torch.optim.SGD(v.parameters(), lr=0.02, momentum=0.5)


def adam(v: mlopt.Variable) -> torch.optim.Optimizer:
    return torch.optim.Adam(v.parameters(), lr=0.01)


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randn(6, 3, dtype=F64, generator=draw), torch.randn(6, 1, dtype=F64, generator=draw))
        for _ in range(3)
    ]


def two_levels(
    method: Any, schedule: Callable[..., Any] | None = None, optimizer: Any = sgd
) -> mlopt.Engine:
    """A network, a signal with memory, and a weighting above."""
    W, R = network("w"), variable("r", 3)
    data = batches()

    @mlopt.problem(over=W, given=[R], data=data, optimizer=optimizer(W), hypergrad=method)
    def low(w, r, batch):
        x, y = batch
        z = mlopt.outputs(w(x * r.exp()))
        decay = sum((p**2).sum() for p in w.parameters())
        return mse_loss(z, y) + decay, {"outputs": z.mean()}

    @mlopt.signal(given=[W], data=data, state=nn.BatchNorm1d(1).to(F64))
    def predictions(w, batch):
        return w(batch[0])

    @mlopt.problem(over=R, given=[W, predictions], data=data, optimizer=adam(R))
    def high(r, w, predictions, batch):
        x, y = batch
        return mse_loss(w(x), y) + (predictions**2).mean() + (r**2).sum()

    return mlopt.Engine([low, predictions, high], schedule=schedule and schedule(low, high))


def nested(lower: Any, middle: Any, schedule: Callable[..., Any] | None = None) -> mlopt.Engine:
    """A middle problem that steers a bottom, and a top that reads both."""
    W, V, A = network("w", norm=False), variable("v", 3), variable("a")
    data = batches()

    @mlopt.problem(over=W, given=[V], data=data, optimizer=sgd(W), hypergrad=lower)
    def low(w, v, batch):
        x, y = batch
        return mse_loss(w(x * v.exp()), y) + sum((p**2).sum() for p in w.parameters())

    @mlopt.signal(given=[W, V], data=data)
    def outputs(w, v, batch):
        return w(batch[0] * v)

    @mlopt.problem(over=V, given=[outputs, A], data=data, optimizer=adam(V), hypergrad=middle)
    def mid(v, outputs, a, batch):
        penalty = (a.exp() * v**2).sum()
        return mse_loss(outputs, batch[1]) + penalty, {"penalty": penalty}

    @mlopt.problem(over=A, given=[V, W], data=data, optimizer=sgd(A))
    def top(a, v, w, batch):
        x, y = batch
        return mse_loss(w(x * v), y) + a**2

    return mlopt.Engine([low, outputs, mid, top], schedule=schedule and schedule(low, mid, top))


def game(play: Callable[..., Any]) -> mlopt.Engine:
    """Two players under a leader."""
    X, Y, Z = variable("x", 2), variable("y", 2), variable("z", 2)

    @mlopt.problem(over=X, given=[Y, Z], optimizer=sgd(X))
    def first(x, y, z):
        return (x * y).sum() + (z * x**2).sum()

    @mlopt.problem(over=Y, given=[X, Z], optimizer=adam(Y))
    def second(y, x, z):
        return -(x * y).sum() + (z.exp() * y**2).sum()

    @mlopt.problem(over=Z, given=[X, Y], optimizer=sgd(Z))
    def leader(z, x, y):
        return ((x - 1) ** 2 + (y + z) ** 2).sum()

    players = mlopt.Game([first, second], play=play(first, second))
    return mlopt.Engine([players, leader], hypergrad=OneStep())


def stack(method: Any) -> mlopt.Engine:
    """Two learners of one shape, evaluated as one."""
    W, A = [variable("w", 3) for _ in range(2)], variable("a", 3)
    data = batches()

    def learner(w: mlopt.Variable) -> mlopt.Problem:
        @mlopt.problem(over=w, given=[A], data=data, optimizer=sgd(w), hypergrad=method)
        def learn(w, a, batch):
            x, y = batch
            return (((x * a.exp()) @ w - y[:, 0]) ** 2).mean()

        return learn

    @mlopt.problem(over=A, given=[W], data=data, optimizer=adam(A))
    def judge(a, w, batch):
        x, y = batch
        return sum(((x @ w_k - y[:, 0]) ** 2).mean() for w_k in w) + (a**2).sum()

    return mlopt.Engine([mlopt.Stack([learner(w) for w in W]), judge])


def _turns(*problems: Any) -> mlopt.Alternate:
    return mlopt.Alternate(*((p, 2 if p is problems[0] else 1) for p in problems))


SCHEDULES: dict[str, Callable[..., Any]] = {
    "upper first": lambda *problems: mlopt.UpperFirst(),
    "in turns": _turns,
    "until solved": lambda low, *others: mlopt.Alternate(
        (low, mlopt.Until(1e-3, most=2)), *((p, 1) for p in others)
    ),
}

ENGINES: dict[str, Callable[[], mlopt.Engine]] = {
    **{f"two levels, {n}": functools.partial(two_levels, m) for n, m in STAGED.items()},
    **{f"two levels, {n}, Adam": functools.partial(two_levels, METHODS[n], optimizer=adam)
       for n in ("exact", "sama", "unrolled", "recomputed")},
    **{f"nested, {n}": functools.partial(nested, m, m) for n, m in METHODS.items()},
    "nested, unrolled below exact": functools.partial(nested, Unrolled(2), OneStep()),
    "nested, implicit below central": functools.partial(
        nested, METHODS["implicit"], METHODS["central"]
    ),
    "nested, exact below frozen": functools.partial(nested, OneStep(), mlopt.Frozen()),
    **{f"{n}, nested": functools.partial(nested, OneStep(), OneStep(), s)
       for n, s in SCHEDULES.items()},
    **{f"{n}, two levels": functools.partial(two_levels, OneStep(), s)
       for n, s in SCHEDULES.items()},
    "in turns, recomputed": functools.partial(two_levels, METHODS["recomputed"], _turns),
    "sequential": functools.partial(
        two_levels, mlopt.Frozen(), lambda *problems: mlopt.Sequential()
    ),
    "game, simultaneous": functools.partial(game, lambda *players: None),
    "game, extragradient": functools.partial(game, lambda *players: Extragradient()),
    "game, alternating": functools.partial(game, lambda a, b: Alternating((a, 2), (b, 1))),
    "stack, exact": functools.partial(stack, OneStep()),
    "stack, central": functools.partial(stack, METHODS["central"]),
}  # fmt: skip

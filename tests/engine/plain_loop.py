"""A problem by the engine against a loop by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from compare import exact, rounding
from small import F64, assert_same, batches, mlp, sgd
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim import lr_scheduler as schedulers

import mlopt

DATA = batches(4)
A0 = torch.tensor([0.1, -0.2, 0.3], dtype=F64)


def alone(
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    *,
    net: nn.Module | None = None,
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
    per_step: bool = False,
    clip: float | None = None,
    steps: int = 9,
) -> None:
    """The engine, with a level above that reads the network, against a loop by hand: equal bits."""
    net = mlp() if net is None else net
    twin = copy.deepcopy(net)
    W = mlopt.Variable(net, "w")
    A = mlopt.Variable(nn.Parameter(A0.clone()), "a")
    optimizer = make_optimizer(net)
    schedule = scheduler(optimizer) if scheduler else None

    @mlopt.problem(
        over=W,
        given=[A],
        data=DATA,
        optimizer=optimizer,
        scheduler=mlopt.PerStep(schedule) if per_step else schedule,
        hypergrad=mlopt.OneStep(lr=0.1, product=mlopt.Central()),
        clip=clip,
    )
    def fit(w, a, batch):
        return mse_loss(w(batch[0] * a.exp()), batch[1])

    @mlopt.problem(over=A, given=[W], data=batches(3, seed=9), optimizer=sgd(A, lr=0.0))
    def tune(a, w, batch):
        return mse_loss(w(batch[0] + a), batch[1])

    engine = mlopt.Engine([fit, tune])
    own = make_optimizer(twin)
    own_schedule = scheduler(own) if scheduler else None
    losses: list[float] = []
    for t in range(steps):
        rates = [g["lr"] for g in optimizer.param_groups]
        assert rates == [g["lr"] for g in own.param_groups], f"step {t}"
        engine.step()
        with torch.random.fork_rng():
            torch.manual_seed(engine.seed_of(fit, step=t))
            loss = mse_loss(twin(DATA[t % 4][0] * A0.exp()), DATA[t % 4][1])
        own.zero_grad()
        loss.backward()
        losses.append(loss.item())
        if clip is not None:
            nn.utils.clip_grad_norm_(twin.parameters(), clip)
        own.step()
        if own_schedule is not None:
            plateau = isinstance(own_schedule, schedulers.ReduceLROnPlateau)
            if per_step:
                own_schedule.step(*(losses[-1:] if plateau else []))
            elif t % 4 == 3:
                own_schedule.step(*([sum(losses[-4:]) / 4] if plateau else []))
    assert_same(dict(net.state_dict()), dict(twin.state_dict()))
    assert_same(optimizer.state_dict(), own.state_dict())
    if scheduler:
        found, expected = schedule.state_dict(), own_schedule.state_dict()
        if "best" in found:  # the mean loss of an epoch, summed in another order
            exact(found["best"], expected["best"], rounding(4))
        for key in set(found) - {"best", "_schedulers"}:
            if not key.startswith("_") and not callable(found[key]):
                assert found[key] == expected[key], key


def groups(net):
    """Two groups of unequal options, as for layers without decay (D9)."""
    return torch.optim.SGD(
        [
            {"params": net[0].parameters(), "lr": 0.1},
            {"params": net[2].parameters(), "lr": 0.001, "weight_decay": 0.05, "nesterov": True},
        ],
        lr=0.05,
        momentum=0.9,
    )


def loaded(net):
    """An optimizer that arrives with state."""
    made = torch.optim.Adam(net.parameters(), lr=0.01)
    for i, p in enumerate(net.parameters()):
        p.grad = torch.full_like(p, 0.1 * (i + 1))
    made.step()
    made.zero_grad()
    return made


OPTIMIZERS = {
    "SGD": lambda net: torch.optim.SGD(net.parameters(), lr=0.1),
    "groups": groups,
    "loaded": loaded,
    "one of two layers": lambda net: torch.optim.Adam(net[2].parameters(), lr=0.01),
    "AdamW": lambda net: torch.optim.AdamW(net.parameters(), lr=0.01, amsgrad=True),
    "Adagrad": lambda net: torch.optim.Adagrad(net.parameters(), lr=0.1),
    "RMSprop": lambda net: torch.optim.RMSprop(net.parameters(), lr=0.01, momentum=0.5),
    "NAdam": lambda net: torch.optim.NAdam(net.parameters(), lr=0.01),
    "Rprop": lambda net: torch.optim.Rprop(net.parameters(), lr=0.01),
    "ASGD": lambda net: torch.optim.ASGD(net.parameters(), lr=0.01),
    "Adadelta": lambda net: torch.optim.Adadelta(net.parameters()),
    "maximize": lambda net: torch.optim.SGD(net.parameters(), lr=1e-3, maximize=True),
}

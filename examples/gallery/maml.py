"""MAML: an initialisation from which a few gradient steps fit a new sinusoid.

    min over theta   sum over tasks b   L_query_b(w_b)
    where   w_b = K gradient steps on L_support_b, from theta

A task is a sinusoid of random amplitude and phase; ten points to adapt on, ten to be judged by.
Each slot of the meta batch is a problem of its own, so the number of tasks is a loop's bound.
`Unrolled` starts every one of them at theta and differentiates through the steps.

    python examples/gallery/maml.py

Reference: Finn, Abbeel, Levine, "Model-agnostic meta-learning for fast adaptation of deep
networks", ICML 2017.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from math import pi

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import SGD, Adam

import mlopt
from bounded import amount, count
from mlopt.report import format_table
from resumable import parsed, program, saved

Rows = tuple[Tensor, Tensor]
Task = tuple[Rows, Rows]


def draw_task(shots: int = 10) -> Task:
    """(support, query) of one sinusoid: amplitude in [0.1, 5], phase in [0, pi], x in [-5, 5]."""
    amplitude, phase = 0.1 + 4.9 * torch.rand(()), pi * torch.rand(())
    x = 10 * torch.rand(2 * shots, 1) - 5
    y = amplitude * torch.sin(x - phase)
    return (x[:shots], y[:shots]), (x[shots:], y[shots:])


class Tasks:
    """One slot's tasks. The engine seeds each draw, so they are the same in every run."""

    def __iter__(self) -> Iterator[Task]:
        while True:
            yield draw_task()


def make_net(seed: int = 0, width: int = 40) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )


def build(
    theta: nn.Module, tasks: int = 8, inner_steps: int = 1, inner_lr: float = 0.01, lr: float = 2e-3
) -> tuple[mlopt.Engine, mlopt.Problem]:
    """One inner problem for each slot, and the meta problem over theta."""
    THETA = mlopt.Variable(theta, "theta")
    W = [mlopt.Variable(copy.deepcopy(theta), f"w{b}") for b in range(tasks)]
    slots = tuple(Tasks() for _ in range(tasks))

    def adaptation(b: int) -> mlopt.Problem:
        @mlopt.problem(
            over=W[b],
            data=slots[b],
            optimizer=SGD(W[b].parameters(), lr=inner_lr),
            hypergrad=mlopt.Unrolled(inner_steps, init=THETA, same_batch=True),
            name=f"adapt{b}",
        )
        def adapt(w, task):
            (x, y), _ = task
            return mse_loss(w(x), y)

        return adapt

    @mlopt.problem(over=THETA, given=[W], data=slots, optimizer=Adam(THETA.parameters(), lr=lr))
    def meta(theta, adapted, tasks):
        queries = [query for _, query in tasks]
        return sum(mse_loss(w(x), y) for w, (x, y) in zip(adapted, queries, strict=True)) / len(W)

    return mlopt.Engine([*map(adaptation, range(tasks)), meta]), meta


def pretrain(net: nn.Module, steps: int, tasks: int, lr: float = 2e-3) -> nn.Module:
    """What MAML is compared with: one fit of all tasks together."""
    W = mlopt.Variable(net, "w")
    slots = tuple(Tasks() for _ in range(tasks))

    @mlopt.problem(over=W, data=slots, optimizer=Adam(W.parameters(), lr=lr))
    def fit(w, tasks):
        rows = [rows for task in tasks for rows in task]
        return sum(mse_loss(w(x), y) for x, y in rows) / len(rows)

    mlopt.Engine([fit]).run(steps=steps, progress=False, **saved())
    return net


def adapted_losses(
    theta: nn.Module, lr: float, steps: int, tasks: int = 200, seed: int = 1
) -> list[float]:
    """The mean query loss on new tasks after 0, 1, ... plain gradient steps."""
    totals = [0.0] * (steps + 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(tasks):
            (x, y), (x_query, y_query) = draw_task()
            net = copy.deepcopy(theta)
            optimizer = SGD(net.parameters(), lr=lr)
            for k in range(steps + 1):
                with torch.no_grad():
                    totals[k] += mse_loss(net(x_query), y_query).item() / tasks
                optimizer.zero_grad()
                mse_loss(net(x), y).backward()
                optimizer.step()
    return totals


def make_engine() -> mlopt.Engine:
    """The first that is run, for `--verify-resume`."""
    return build(make_net())[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=count, default=1500, help="meta updates")
    parser.add_argument("--tasks", type=count, default=8, help="in each of them")
    parser.add_argument("--inner-steps", type=count, default=1)
    parser.add_argument("--inner-lr", type=amount, default=0.01)
    given = parsed(parser, make_engine)
    theta = make_net()
    engine, _ = build(theta, given.tasks, given.inner_steps, given.inner_lr)
    engine.run(steps=given.steps, progress=False, **saved())
    rows = []
    for name, net in {
        "MAML": theta,
        "fit of all tasks": pretrain(make_net(), given.steps, given.tasks),
        "random": make_net(),
    }.items():
        losses = adapted_losses(net, given.inner_lr, 10)
        shown = {f"{k} steps": f"{losses[k]:.2f}" for k in (0, 1, 5, 10)}
        rows.append({"initialisation": name, **shown})
    print("mean squared error on 200 new tasks after some gradient steps on ten points:")
    print(format_table(rows))


if __name__ == "__main__":
    program(main)

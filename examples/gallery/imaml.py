"""Implicit MAML: tasks solved near an initialisation, and no steps to remember.

    min over theta   sum over tasks b   L_query_b(w_b*(theta))
    where   w_b*(theta) = argmin over w  L_support_b(w) + lambda/2 |w - theta|^2

The proximal term ties every task to theta, and the meta-gradient needs the optimum alone:

    dL/dtheta = sum over b  (I + H_b / lambda)^-1 dL_query_b/dw,    H_b = d^2 L_support_b / dw^2

which is what `Implicit(CG())` gives. The memory does not grow with the number of inner steps. Tasks
are sinusoids; the network is small, so that the inner problems can really be solved.

    python examples/gallery/imaml.py

Reference: Rajeswaran, Finn, Kakade, Levine, "Meta-learning with implicit gradients", NeurIPS 2019.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from math import pi
from typing import Any

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

CG = mlopt.CG(max_steps=10, tol=1e-3)


def draw_task(shots: int = 10) -> Task:
    """(support, query) of one sinusoid: amplitude in [0.5, 2], phase in [0, pi], x in [-1, 1]."""
    amplitude, phase = 0.5 + 1.5 * torch.rand(()), pi * torch.rand(())
    x = 2 * torch.rand(2 * shots, 1) - 1
    y = amplitude * torch.sin(3 * x - phase)
    return (x[:shots], y[:shots]), (x[shots:], y[shots:])


class Tasks:
    """One slot's tasks. The engine seeds each draw, so they are the same in every run."""

    def __iter__(self) -> Iterator[Task]:
        while True:
            yield draw_task()


def make_net(seed: int = 0, width: int = 20) -> nn.Sequential:
    """Smooth, so that the optimality condition has a derivative."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
        )


def distance(w: nn.Module, theta: nn.Module) -> Tensor:
    """|w - theta|^2."""
    pairs = zip(w.parameters(), theta.parameters(), strict=True)
    return torch.stack([((p - q) ** 2).sum() for p, q in pairs]).sum()


class FromTheta(mlopt.Callback):
    """A new task begins at theta, with an optimizer without a past."""

    def __init__(self, theta: nn.Module, problems: list[mlopt.Problem]) -> None:
        self.theta, self.problems = theta, problems

    def on_step(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        for problem in self.problems:
            problem.over[0].value.load_state_dict(self.theta.state_dict())  # type: ignore[union-attr]
            problem.optimizer.state.clear()  # type: ignore[union-attr]


def build(
    theta: nn.Module,
    tasks: int = 4,
    lambda_: float = 2.0,
    rounds: int = 40,
    inner_lr: float = 0.05,
    lr: float = 1e-2,
    solver: mlopt.AbstractSolver = CG,
) -> tuple[mlopt.Engine, list[mlopt.Problem], mlopt.Problem]:
    """The engine, one inner problem for each slot, and the meta problem over theta."""
    THETA = mlopt.Variable(theta, "theta")
    W = [mlopt.Variable(copy.deepcopy(theta), f"w{b}") for b in range(tasks)]
    slots = tuple(Tasks() for _ in range(tasks))

    def adaptation(b: int) -> mlopt.Problem:
        @mlopt.problem(
            over=W[b],
            given=[THETA],
            data=slots[b],
            optimizer=SGD(W[b].parameters(), lr=inner_lr, momentum=0.9),
            hypergrad=mlopt.Implicit(solver),
            name=f"adapt{b}",
        )
        def adapt(w, theta, task):
            (x, y), _ = task
            return mse_loss(w(x), y) + lambda_ / 2 * distance(w, theta)

        return adapt

    @mlopt.problem(over=THETA, given=[W], data=slots, optimizer=Adam(THETA.parameters(), lr=lr))
    def meta(theta, solved, tasks):
        queries = [query for _, query in tasks]
        return sum(mse_loss(w(x), y) for w, (x, y) in zip(solved, queries, strict=True)) / len(W)

    inner = [adaptation(b) for b in range(tasks)]
    schedule = mlopt.Alternate((tuple(inner), rounds), (meta, 1), same_batch=True)
    return mlopt.Engine([*inner, meta], schedule=schedule), inner, meta


def meta_train(theta: nn.Module, steps: int, **options: Any) -> nn.Module:
    """Theta after some meta updates; the module is changed in place."""
    engine, inner, _ = build(theta, **options)
    engine.run(steps=steps, progress=False, **saved(FromTheta(theta, inner)))
    return theta


def adapted_loss(
    theta: nn.Module, lambda_: float, rounds: int, lr: float = 0.05, tasks: int = 50, seed: int = 1
) -> tuple[float, float]:
    """The mean query loss on new tasks before and after the inner problem is solved."""
    before = after = 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(tasks):
            (x, y), (x_query, y_query) = draw_task()
            net = copy.deepcopy(theta)
            optimizer = SGD(net.parameters(), lr=lr, momentum=0.9)
            before += mse_loss(net(x_query), y_query).item() / tasks
            for _ in range(rounds):
                optimizer.zero_grad()
                (mse_loss(net(x), y) + lambda_ / 2 * distance(net, theta)).backward()
                optimizer.step()
            after += mse_loss(net(x_query), y_query).item() / tasks
    return before, after


def make_engine() -> mlopt.Engine:
    """The first that is run, for `--verify-resume`."""
    return build(make_net())[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=count, default=150, help="meta updates")
    parser.add_argument("--tasks", type=count, default=4, help="in each of them")
    parser.add_argument("--lambda", type=amount, default=2.0, dest="lambda_")
    parser.add_argument("--rounds", type=count, default=40, help="steps on each inner problem")
    parser.add_argument("--inner-lr", type=amount, default=0.05)
    given = parsed(parser, make_engine)
    options = {"lambda_": given.lambda_, "rounds": given.rounds}
    theta = meta_train(
        make_net(), given.steps, tasks=given.tasks, inner_lr=given.inner_lr, **options
    )
    nets = {"iMAML": theta, "random": make_net()}
    rows = []
    for name, net in nets.items():
        before, after = adapted_loss(net, **options, lr=given.inner_lr)
        rows.append({"initialisation": name, "before": f"{before:.3f}", "adapted": f"{after:.3f}"})
    print("mean squared error on 50 new tasks, ten points to adapt on:")
    print(format_table(rows))


if __name__ == "__main__":
    program(main)

"""The ladder: a bottom problem, layers of two problems, a top problem.

Each problem of a layer reads both problems of the layer below; the bottom reads the top's variable,
whose hypergradient passes through all. With D layers there are 2 D + 2 problems, 4 D + 1 edges and
2^D paths from the top's variable back to it.

    F_i(x; r) = |x + sin(x) / 2 - tanh(M_i r)|^2 / 2,        r: the mean of what the problem reads
    top: |r - target|^2 / 2 + |t|^2 / 20

Every variable is a vector, and moves by SGD.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import mlopt

__all__ = ["Ladder", "Vector", "betty_ladder", "ladder_engine"]

LR, RADIUS, WIDTH = 0.1, 0.01, 2


class Vector(nn.Module):
    """A vector as a module, which is what Betty takes."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self) -> Tensor:
        return self.value


class Ladder:
    """The variables and objectives of one contestant; equal seeds make equal ladders.

    Args:
        depth: D, the number of layers.
        size: numbers of a variable.
        device: of the variables.
        dtype: of the variables.
    """

    def __init__(
        self, depth: int, size: int = 32, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        draw = torch.Generator().manual_seed(0)

        def tensor(*shape: int) -> Tensor:
            found = torch.randn(*shape, generator=draw, dtype=torch.float64)
            return found.to(device, dtype)

        layers = [[f"x{i}{side}" for side in "ab"[:WIDTH]] for i in range(1, depth + 1)]
        # The levels from the lowest to the highest, and what each problem reads.
        self.levels: list[list[str]] = [["bottom"], *layers, ["top"]]
        self.reads: dict[str, list[str]] = {"bottom": ["top"]}
        for below, level in itertools.pairwise(self.levels):
            self.reads.update(dict.fromkeys(level, below))
        self.names = [name for level in self.levels for name in level]
        self.modules = {name: Vector(tensor(size)) for name in self.names}
        self.mixing = {name: tensor(size, size) / size**0.5 for name in self.names[:-1]}
        self.target = tensor(size)
        self.optimizers = {
            name: torch.optim.SGD(module.parameters(), LR) for name, module in self.modules.items()
        }
        self.evaluations = 0

    @property
    def edges(self) -> int:
        return sum(map(len, self.reads.values()))

    def objective(self, name: str, x: Tensor, reads: Sequence[Tensor]) -> Tensor:
        """The objective of a problem at x and at what it reads."""
        self.evaluations += 1
        r = sum(reads[1:], reads[0]) / len(reads)
        if name == "top":
            return ((r - self.target) ** 2).sum() / 2 + (x**2).sum() / 20
        return ((x + x.sin() / 2 - torch.tanh(self.mixing[name] @ r)) ** 2).sum() / 2


def ladder_engine(
    ladder: Ladder, product: str = "central"
) -> tuple[mlopt.Engine, dict[str, mlopt.Problem]]:
    """The graph in mlopt, and its problems by name."""
    method = mlopt.OneStep(
        product={
            "central": mlopt.Central(RADIUS),
            "one-sided": mlopt.OneSided(RADIUS),
            "exact": mlopt.Exact(),
        }[product]
    )
    X = {name: mlopt.Variable(m.value, name) for name, m in ladder.modules.items()}

    def declare(name: str) -> mlopt.Problem:
        @mlopt.problem(
            over=X[name],
            given=[[X[read] for read in ladder.reads[name]]],
            optimizer=ladder.optimizers[name],
            name=name,
        )
        def objective(x, reads):
            return ladder.objective(name, x, reads)

        return objective

    problems = {name: declare(name) for name in ladder.names}
    return mlopt.Engine(list(problems.values()), hypergrad=method), problems


def betty_ladder(ladder: Ladder) -> tuple[Callable[[], None], int] | None:
    """A step of the same graph in Betty (type darts) and its paths; None if not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from betty.configs import Config, EngineConfig
            from betty.engine import Engine
            from betty.problems import ImplicitProblem
    except ImportError:
        return None

    class Rung(ImplicitProblem):
        def training_step(self, batch):
            reads = [getattr(self, name)() for name in ladder.reads[self.name]]
            return ladder.objective(self.name, self.module(), reads)

    def make(name: str) -> Any:
        # The top has one gradient for each path, all through the graph of one loss.
        config = Config(
            type="darts", darts_alpha=RADIUS, unroll_steps=1, retain_graph=name == "top"
        )
        return Rung(
            name=name,
            config=config,
            module=ladder.modules[name],
            optimizer=ladder.optimizers[name],
            train_data_loader=[[0]],  # it cannot do without
        )

    made = {name: make(name) for name in ladder.names}
    up: dict[Any, list[Any]] = {}
    for below, level in itertools.pairwise(ladder.levels):
        up.update({made[name]: [made[reader] for reader in level] for name in below})
    strategy = "cpu" if ladder.target.device.type == "cpu" else "gpu"
    engine = Engine(
        config=EngineConfig(train_iters=1, valid_step=10**9, strategy=strategy),
        problems=list(made.values()),
        dependencies={"u2l": {made["top"]: [made["bottom"]]}, "l2u": up},
    )
    engine.train()
    counter = itertools.count(1)

    def step() -> None:
        engine.global_step = next(counter)
        engine.train_step()

    return step, len(made["top"].paths)

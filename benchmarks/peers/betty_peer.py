"""Betty 0.2.1: a step of its engine, with the hypergradient taken from `grad_callback`.

The engine always steps the lower problem first. Its learning rate is zero here, so that the answer
is at (w, r); the step's forward and backward are part of the library's cost.

`cg` builds each new direction from the residual before the update, where conjugate gradient takes
the one after it. It is right for one iteration; from two on it is another method, and the more
iterations the worse. `cg_alpha` other than 1 scales the step lengths but not the residual, and is
wrong from the second iteration too.

`darts` and `sama` leave out the lower learning rate. `sama` is run with SGD, where it differs from
`darts` by its radius alone (1 by default). With Adam it reads moments of earlier steps, so it has
no answer at a point. `reinforce` is an empty function. The two iterative problems (unrolling) stop
with an error in their own initialization; they are here for the record.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import Lower, Method, Options, Upper

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from betty.configs import Config, EngineConfig
    from betty.engine import Engine
    from betty.logging import get_logger
    from betty.problems import HigherIterativeProblem, ImplicitProblem, IterativeProblem

__all__ = ["METHODS"]


def _prepare(
    problem: Any, config: Config, kind: type = ImplicitProblem, lr: float = 0.0
) -> Callable[[], Tensor]:
    found: list[Tensor] = []

    class LowerProblem(kind):
        def training_step(self, batch: Any) -> Tensor:
            return self.module(self.outer(), batch)

    class UpperProblem(ImplicitProblem):
        def training_step(self, batch: Any) -> Tensor:
            return self.inner.module(self.module(), batch, upper=True)

        def grad_callback(self) -> None:
            found.append(self.module.r.grad.detach().clone())

    below, above = Lower(problem), Upper(problem)
    inner = LowerProblem(
        name="inner",
        config=config,
        module=below,
        optimizer=torch.optim.SGD(below.parameters(), lr=lr),
        train_data_loader=[problem.train],
    )
    outer = UpperProblem(
        name="outer",
        config=Config(first_order=kind is ImplicitProblem, retain_graph=True),
        module=above,
        optimizer=torch.optim.SGD(above.parameters(), lr=0.0),
        train_data_loader=[problem.val],
    )
    get_logger().setLevel(logging.ERROR)  # at each step it would announce itself
    strategy = "cpu" if problem.w.device.type == "cpu" else "default"
    engine = Engine(
        config=EngineConfig(train_iters=config.unroll_steps, valid_step=10**9, strategy=strategy),
        problems=[outer, inner],
        dependencies={"u2l": {outer: [inner]}, "l2u": {inner: [outer]}},
    )

    def step() -> Tensor:
        found.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            engine.run()
        return found[0]

    return step


def _cg(problem: Any, options: Options) -> Callable[[], Tensor]:
    return _prepare(problem, Config(type="cg", cg_iterations=options.iterations))


def _neumann(problem: Any, options: Options) -> Callable[[], Tensor]:
    k, alpha = options.iterations, options.step_size
    return _prepare(problem, Config(type="neumann", neumann_iterations=k, neumann_alpha=alpha))


def _darts(problem: Any, options: Options) -> Callable[[], Tensor]:
    return _prepare(problem, Config(type="darts", darts_alpha=options.radius))


def _sama(problem: Any, options: Options) -> Callable[[], Tensor]:
    return _prepare(problem, Config(type="sama", sama_adam_alpha=options.radius))


def _iterative(
    problem: Any, options: Options, kind: type = IterativeProblem
) -> Callable[[], Tensor]:
    return _prepare(problem, Config(unroll_steps=options.iterations), kind, options.step_size)


def _higher(problem: Any, options: Options) -> Callable[[], Tensor]:
    return _iterative(problem, options, HigherIterativeProblem)


METHODS = [
    Method("Betty", "cg", "cg", _cg, "iterations"),
    Method("Betty", "neumann", "neumann", _neumann, "iterations"),
    Method("Betty", "darts", "identity", _darts),
    Method("Betty", "sama (SGD)", "identity", _sama),
    Method("Betty", "IterativeProblem", "sgd", _iterative, "iterations"),
    Method("Betty", "HigherIterativeProblem", "sgd", _higher, "iterations"),
]

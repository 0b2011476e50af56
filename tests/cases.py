"""The table of methods, and of graphs, on which each method's law is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from case_graphs import (
    GraphRow,
    Method,
    Optimizer,
    bilevel_module,
    bilevel_tensor,
    hyperparameter,
    ladder,
    signals,
)
from lfm_cw_case import lfm_cw
from oracles import optimum, sweep_rounding, whole_step
from torch import Tensor

import mlopt
from mlopt import (
    CG,
    Central,
    Dense,
    Exact,
    Frozen,
    Implicit,
    Neumann,
    OneSided,
    OneStep,
    Sama,
    StopGradient,
)

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW


@dataclass(frozen=True)
class Recorder(mlopt.AbstractHypergradient):
    """Another method, unchanged, that keeps the responses it is given."""

    method: mlopt.AbstractHypergradient
    responses: list[mlopt.Response] = field(default_factory=list)
    cotangents: list[Any] = field(default_factory=list)

    @property
    def moves(self) -> bool:
        return self.method.moves

    @property
    def responds(self) -> bool:
        return self.method.responds

    @property
    def at_solution(self) -> bool:
        return self.method.at_solution

    def cost_of(self, size: int) -> mlopt.Cost:
        return self.method.cost_of(size)

    @property
    def cost(self) -> mlopt.Cost:
        return self.method.cost

    def check(self, name: str, optimizer: Any) -> None:
        self.method.check(name, optimizer)

    def solution(self, response: mlopt.Response) -> Any:
        self.responses.append(response)
        return self.method.solution(response)

    def pullback(self, response: mlopt.Response, cotangent: Any, wanted: Sequence[Any]) -> Any:
        if not any(r is response for r in self.responses):  # an optimum is not asked for its value
            self.responses.append(response)
        self.cotangents.append(cotangent)
        return self.method.pullback(response, cotangent, wanted)


# Methods.

#: Of the largest graph, which has six problems below the top.
ROUNDING = sweep_rounding(6)


@dataclass(frozen=True)
class MethodRow:
    """A method, the optimizer it looks ahead by, and how exact its docstring says it is."""

    name: str
    method: Callable[[], mlopt.AbstractHypergradient]
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer]
    bound: float = ROUNDING
    why: str = ""  # where the bound comes from, if not from rounding
    graphs: tuple[str, ...] = ()  # those it claims; all, if none is named
    # what it solves, for the oracle: (method, problem, w, dF/dw) -> s, as a differentiable program
    formula: Callable[..., dict[Any, Tensor]] | None = None

    @property
    def formulas(self) -> dict[type, Callable[..., dict[Any, Tensor]]]:
        """The formula, by the type of the method that it states."""
        method = self.method()
        inner = method.method if isinstance(method, StopGradient) else method
        return {type(inner): self.formula} if self.formula else {}


def _sgd(**options: Any) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
    return lambda parameters: warmed(SGD(parameters, **options))


def _adam(kind: type = Adam, **options: Any) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
    return lambda parameters: warmed(kind(parameters, **options))


def warmed(optimizer: torch.optim.Optimizer, steps: int = 2) -> torch.optim.Optimizer:
    """An optimizer with a past: some steps with random gradients, and the parameters put back."""
    generator = torch.Generator().manual_seed(7)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in parameters]
    for _ in range(steps):
        for p in parameters:
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.grad = _placed(noise.to(p.device, p.dtype), p)
        optimizer.step()
    with torch.no_grad():
        for p, value in zip(parameters, before, strict=True):
            p.copy_(value)
            p.grad = None
    return optimizer


def _placed(noise: Tensor, like: Any) -> Tensor:
    """The same numbers, sharded as a parameter is that is."""
    if not hasattr(like, "placements"):
        return noise
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(noise, like.device_mesh, like.placements)


_PLAIN = _sgd(lr=0.1)
_HEAVY = _sgd(lr=0.3, momentum=0.9, weight_decay=0.05)

# Of each kind of error, a bound and where it comes from.
#: Along a direction of length 1 in w, the derivatives of these graphs grow at most tenfold with
#: each order; six problems one after another.
_CENTRAL = (6 * 10**2 * 1e-3**2 / 6, "central differences: radius^2 / 6 of the third derivative")
_ONE_SIDED = (6 * 10 * 1e-6 / 2, "one-sided differences: radius / 2 of the second derivative")
#: The lower problems of most graphs are neither solved nor convex: the law holds at any w where
#: H + damping is regular, and 0.7 leaves it a condition below 100.
_REGULAR = 100 * ROUNDING
#: A damping of 30 makes it positive definite for the iterative solvers, with a condition below 3.
_DAMPED = 3 * ROUNDING
_CG = (6 * 3 * 1e-12, "CG stops at a residual of 1e-12, times the condition, in six problems")

METHODS = [
    MethodRow("frozen", lambda: Frozen(), _PLAIN),
    MethodRow("stop_gradient", lambda: StopGradient(OneStep(lr=0.5)), _PLAIN),
    MethodRow("stop_gradient_own", lambda: StopGradient(OneStep()), _HEAVY),
    MethodRow("one_step_lr", lambda: OneStep(lr=0.5), _HEAVY),
    MethodRow("one_step_lr_1", lambda: OneStep(lr=1.0, product=Exact()), _PLAIN),
    MethodRow("one_step_momentum", lambda: OneStep(), _HEAVY),
    MethodRow("one_step_dampening", lambda: OneStep(), _sgd(lr=0.3, momentum=0.9, dampening=0.4)),
    MethodRow("one_step_nesterov", lambda: OneStep(), _sgd(lr=0.2, momentum=0.8, nesterov=True)),
    MethodRow("one_step_maximize", lambda: OneStep(), _sgd(lr=0.3, momentum=0.5, maximize=True)),
    MethodRow("one_step_adam", lambda: OneStep(), _adam(lr=0.1, weight_decay=0.05)),
    MethodRow("one_step_adamw", lambda: OneStep(), _adam(AdamW, lr=0.1, weight_decay=0.1)),
    MethodRow("one_step_central", lambda: OneStep(0.5, Central(1e-3)), _PLAIN, *_CENTRAL),
    MethodRow("own_central", lambda: OneStep(product=Central(1e-3)), _HEAVY, *_CENTRAL),
    # the order of convergence has tests of its own
    MethodRow("one_step_one_sided", lambda: OneStep(0.5, OneSided(1e-6)), _PLAIN, *_ONE_SIDED),
    MethodRow(
        "implicit_dense", lambda: Implicit(Dense(), damping=0.7), _PLAIN, _REGULAR, formula=optimum
    ),
    MethodRow(
        "implicit_cg", lambda: Implicit(CG(300, 1e-12), damping=30.0), _PLAIN, *_CG, formula=optimum
    ),
    # H + 30 lies between 15 and 60, so 0.63^120 of the series is left out: nothing
    MethodRow(
        "implicit_neumann",
        lambda: Implicit(Neumann(120, 0.025), damping=30.0),
        _PLAIN,
        _DAMPED,
        formula=optimum,
    ),
    MethodRow(
        "implicit_cg_central",
        lambda: Implicit(CG(40, 1e-8), Central(1e-3), damping=30.0),
        _PLAIN,
        *_CENTRAL,
        formula=optimum,
    ),
    MethodRow(
        "implicit_solved",
        lambda: Implicit(CG(30, 1e-12)),
        _PLAIN,
        *_CG,
        graphs=("hyperparameter",),
        formula=optimum,
    ),
    MethodRow(
        "stop_implicit",
        lambda: StopGradient(Implicit(damping=30.0)),
        _PLAIN,
        formula=optimum,
    ),
    MethodRow("sama_sgd", lambda: Sama(Exact()), _HEAVY, formula=whole_step),
    MethodRow(
        "sama_adam", lambda: Sama(Exact()), _adam(lr=0.1, weight_decay=0.05), formula=whole_step
    ),
    MethodRow(
        "sama_adamw",
        lambda: Sama(Central(1e-3)),
        _adam(AdamW, lr=0.1),
        *_CENTRAL,
        formula=whole_step,
    ),
]


# Graphs.

GRAPHS: dict[str, Callable[[torch.device, Method, Optimizer], GraphRow]] = {
    "bilevel_tensor": bilevel_tensor,
    "bilevel_module": bilevel_module,
    "hyperparameter": hyperparameter,
    "signals": signals,
    "ladder": ladder,
    "lfm_cw": lfm_cw,
}

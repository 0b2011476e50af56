"""mlopt: its methods through the public API, by `Engine.hypergradient` of two problems.

The lower variable stands at problem.w. Nothing is stepped: a method that looks ahead makes its
steps from there, and forgets them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import error_vs_cost_problems as problems
import torch
from torch import Tensor, nn

import mlopt
from mlopt.penalty import f2sa

from . import Method, Options

__all__ = ["METHODS"]

Prepare = Callable[[Any, Options], Callable[[], Tensor]]


class Levels:
    """The two problems, declared as users declare them."""

    def __init__(self, problem: Any, method: Any = None, optimizer: Any = None) -> None:
        self.W = mlopt.Variable(nn.Parameter(problem.w.detach().clone()), "w")
        self.R = mlopt.Variable(nn.Parameter(problem.r.detach().clone()), "r")
        self.optimizer: Any = None if optimizer is None else optimizer(self.W.parameters())

        @mlopt.problem(
            over=self.W,
            given=[self.R],
            data=[problem.train],
            optimizer=self.optimizer,
            hypergrad=method,
        )
        def lower(w: Tensor, r: Tensor, batch: Any) -> Tensor:
            return problem.lower(w, r, batch)

        @mlopt.problem(over=self.R, given=[self.W], data=[problem.val])
        def upper(r: Tensor, w: Tensor, batch: Any) -> Tensor:
            return problem.upper(w, r, batch)

        self.lower, self.upper = lower, upper

    def asks(self) -> Callable[[], Tensor]:
        engine = mlopt.Engine([self.lower, self.upper])
        return lambda: engine.hypergradient(self.upper)[self.R][""]


def _plain(make: Callable[[Options], Any]) -> Prepare:
    """A method that needs no optimizer."""
    return lambda problem, options: Levels(problem, make(options)).asks()


def _sgd(make: Callable[[Options], Any]) -> Prepare:
    def prepare(problem: Any, options: Options) -> Callable[[], Tensor]:
        def sgd(parameters: Any) -> torch.optim.Optimizer:
            return torch.optim.SGD(parameters, lr=options.step_size)

        return Levels(problem, make(options), sgd).asks()

    return prepare


def _adam(make: Callable[[Options], Any], late: bool = False) -> Prepare:
    """With Adam: from its fresh state, or after all steps but the last."""

    def prepare(problem: Any, options: Options) -> Callable[[], Tensor]:
        def adam(parameters: Any) -> torch.optim.Optimizer:
            return torch.optim.Adam(parameters, lr=options.adam_lr)

        levels = Levels(problem, make(options), adam)
        if late:
            w = levels.W.tensor
            for _ in range(options.iterations - 1):
                (w.grad,) = torch.autograd.grad(problem.lower(w, problem.r, problem.train), w)
                levels.optimizer.step()
        return levels.asks()

    return prepare


def _f2sa(problem: Any, options: Options) -> Callable[[], Tensor]:
    """The gradient with both copies at their minima, which Newton's method finds beforehand."""
    levels = Levels(
        problem, None, lambda parameters: torch.optim.SGD(parameters, options.step_size)
    )
    made = f2sa(lower=levels.lower, upper=levels.upper, weight=options.weight)
    levels.W.tensor.data = problems.penalised_minimum(problem, options.weight)
    engine = mlopt.Engine(made.nodes)
    return lambda: engine.hypergradient(made.upper)[levels.R][""]


def _cg(options: Options) -> mlopt.CG:
    return mlopt.CG(options.iterations, options.tolerance)


def _central(options: Options) -> mlopt.Central:
    return mlopt.Central(options.radius)


def _one_sided(options: Options) -> mlopt.OneSided:
    return mlopt.OneSided(options.radius)


def _own(name: str, kind: str, prepare: Prepare, varies: str | None = None) -> Method:
    return Method("mlopt", name, kind, prepare, varies)


METHODS = [
    _own("Implicit, Dense", "dense", _plain(lambda o: mlopt.Implicit(mlopt.Dense()))),
    _own("Implicit, CG", "cg", _plain(lambda o: mlopt.Implicit(_cg(o))), "iterations"),
    _own(
        "Implicit, CG, Central",
        "cg",
        _plain(lambda o: mlopt.Implicit(_cg(o), _central(o))),
        "iterations",
    ),
    _own(
        "Implicit, CG, damping",
        "damped cg",
        _plain(lambda o: mlopt.Implicit(_cg(o), damping=o.damping)),
        "iterations",
    ),
    _own(
        "Implicit, Neumann",
        "neumann",
        _plain(lambda o: mlopt.Implicit(mlopt.Neumann(o.iterations, o.step_size))),
        "iterations",
    ),
    _own(
        "Implicit, Nystrom",
        "nystrom",
        _plain(lambda o: mlopt.Implicit(mlopt.Nystrom(o.iterations, o.nystrom_damping))),
        "iterations",
    ),
    _own("OneStep(1)", "identity", _plain(lambda o: mlopt.OneStep(1.0))),
    _own("OneStep(1), Central", "identity", _plain(lambda o: mlopt.OneStep(1.0, _central(o)))),
    _own("OneStep(1), OneSided", "identity", _plain(lambda o: mlopt.OneStep(1.0, _one_sided(o)))),
    _own("OneStep", "one sgd step", _sgd(lambda o: mlopt.OneStep())),
    _own("OneStep, Central", "one sgd step", _sgd(lambda o: mlopt.OneStep(product=_central(o)))),
    _own("OneStep, OneSided", "one sgd step", _sgd(lambda o: mlopt.OneStep(product=_one_sided(o)))),
    _own("Sama (SGD)", "one sgd step", _sgd(lambda o: mlopt.Sama(_central(o)))),
    _own(
        "ZerothOrder",
        "one sgd step",
        _sgd(lambda o: mlopt.ZerothOrder(samples=o.samples)),
        "samples",
    ),
    _own("OneStep (Adam)", "last adam step", _adam(lambda o: mlopt.OneStep(), late=True)),
    _own("Sama (Adam)", "last adam step", _adam(lambda o: mlopt.Sama(_central(o)), late=True)),
    _own(
        "Sama (Adam), Exact",
        "last adam step",
        _adam(lambda o: mlopt.Sama(mlopt.Exact()), late=True),
    ),
    _own(
        "Unrolled, truncate=1 (Adam)",
        "last adam step",
        _adam(lambda o: mlopt.Unrolled(o.iterations, truncate=1)),
    ),
    _own("Unrolled", "sgd", _sgd(lambda o: mlopt.Unrolled(o.iterations)), "iterations"),
    _own(
        "Unrolled, recompute",
        "sgd",
        _sgd(lambda o: mlopt.Unrolled(o.iterations, recompute=True)),
        "iterations",
    ),
    _own("Unrolled (Adam)", "adam", _adam(lambda o: mlopt.Unrolled(o.iterations)), "iterations"),
    _own("F2SA", "penalty", _f2sa, "weight"),
]

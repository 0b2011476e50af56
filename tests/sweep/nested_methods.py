"""Which methods solve the drawn problems of nested graphs, and which of their optima are minima."""

from __future__ import annotations

import random
from typing import Any

import torch
from nested_oracle import Fixed, Nested, Optimum, Steps, Stopped
from oracles import sweep_rounding

import mlopt
from mlopt import CG, Frozen, Implicit, OneStep, StopGradient, Unrolled

CURVATURE = 1e-3  # below, a stationary point is no strict minimum, and CG has no business there


def problems_of(nodes: list[Any]) -> list[Any]:
    return [n for n in nodes if isinstance(n, mlopt.Problem)]


def strict(oracle: Nested) -> bool:
    """Whether every optimum is a strict minimum, and every Hessian symmetric.

    A stopped read inside a total objective makes its derivative no gradient of anything.

    Args:
        oracle: that has been asked for the hypergradients of all problems.
    """
    for hessian in oracle.curvature.values():
        if (hessian - hessian.mT).norm() > sweep_rounding(4) * hessian.norm():
            return False
        if torch.linalg.eigvalsh(hessian).min() < CURVATURE:
            return False
    return True


def hypergradients(oracle: Nested, nodes: list[Any]) -> dict[Any, Any]:
    """Of every problem."""
    return {p: oracle.hypergradient(p) for p in problems_of(nodes)}


def implicit(kind: Any) -> mlopt.AbstractHypergradient:
    return Implicit(CG(max_steps=100, tol=1e-13)) if isinstance(kind, Optimum) else Frozen()


def steps(kind: Any) -> mlopt.AbstractHypergradient:
    if isinstance(kind, Stopped):
        return StopGradient(steps(kind.kind))
    if isinstance(kind, Fixed):
        return Frozen()
    return OneStep(lr=kind.lr) if kind.lr else Unrolled(kind.k)


def draw_steps(rng: random.Random) -> Any:
    k = rng.choice([1, 2, 3])
    return rng.choices([Steps(k), Steps(1, 0.3), Stopped(Steps(k)), Fixed()], [6, 2, 1, 1])[0]

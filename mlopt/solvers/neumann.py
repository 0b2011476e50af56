"""`Neumann`: the truncated Neumann series."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._arguments import check_fields, from_zero, positive
from .._errors import ConvergenceError, GraphError
from .._tensors import Tensors
from ._solver import AbstractSolver, Operator, Solution
from ._system import System

__all__ = ["Neumann"]

# The estimate may fall short of the largest eigenvalue by a factor of two before the series
# diverges. With ten iterations it does so only if the top direction has under 5e-8 of |b|^2.
_POWER_STEPS = 10


@dataclass(frozen=True)
class Neumann(AbstractSolver):
    """The truncated Neumann series: what `steps` more gradient steps on the lower problem see.

        x = scale * sum_{i <= steps} (I - scale A)^i b

    One product a step. It converges to the solution if scale < 2 / (largest eigenvalue of A) and A
    is positive definite; every term is then shorter than the one before. A term that grows raises
    an error at once, before it can harm. On the matrix of a game's equilibrium, which is not
    symmetric, it converges where the players' own gradient steps of that learning rate do.

    The residual it reports is the length of the last term, |b - A x| of one step before: the true
    one is no longer, and knowing it would take another product.

    Do not use it where accuracy matters: for one product more `CG` is never worse, in the norm
    of A.

    Args:
        steps: the power of the last term; 0 gives x = scale b.
        scale: the learning rate of those steps; None estimates 1 / (largest eigenvalue) by ten
            power iterations from b, each one product more.

    Raises:
        GraphError: steps is negative or not whole, or scale is not positive and finite.

    `solve` raises ConvergenceError if the series diverges, or if scale is None and A b is zero,
    beside what every solver raises.

    Reference: Lorraine, Vicol, Duvenaud, "Optimizing millions of hyperparameters by implicit
    differentiation", AISTATS 2020, Alg. 3.
    """

    steps: int = 20
    scale: float | None = None

    general = True

    def __post_init__(self) -> None:
        check_fields(self, GraphError, steps=from_zero, scale=positive)

    def most_products(self, size: int) -> int:
        del size
        return self.steps + (_POWER_STEPS if self.scale is None else 0)

    @torch.no_grad()
    def solve(self, operator: Operator, b: Tensors, name: str = "") -> Solution:
        system = System(operator, b, name)
        term = total = system.b
        length = system.length
        if length == 0:
            return system.solution(term, 0.0)
        scale = _estimate(system) if self.scale is None else self.scale
        allowed = 1 + math.sqrt(system.eps)  # a term in a flat direction stays, up to rounding
        for _ in range(self.steps):
            product = system.product(term)
            after = torch.sub(term, product, alpha=scale)
            before, (length,) = length, system.read(system.norms(after))
            if length > allowed * before:
                raise _divergence(system, scale, term, product)
            term, total = after, total + after
            if length == 0:
                break
        return system.solution(scale * total, length / system.length)


def _estimate(system: System) -> float:
    """One over the largest |eigenvalue| that b excites, by power iterations."""
    vector, length = system.b / system.length, 0.0
    for _ in range(_POWER_STEPS):
        product = system.product(vector)
        (length,) = system.read(system.norms(product))
        if length == 0:
            raise system.no_curvature()
        vector = product / length
    return 1 / length


def _divergence(system: System, scale: float, term: Tensor, product: Tensor) -> ConvergenceError:
    what = f"{system.where}: the Neumann series diverges with scale={scale:.4g}"
    damp = "add damping, use a Gauss-Newton curvature, or take more inner steps"
    curvature, squared = system.read(system.dots((term, product), (product, product)))
    if curvature <= 0:
        return ConvergenceError(
            f"{what}: the curvature is negative along a term, and no scale helps. The lower "
            f"problem is not at a minimum: {damp}."
        )
    # On a positive A this is at least one over its largest eigenvalue, and under scale / 2.
    return ConvergenceError(
        f"{what}: a term is longer than the one before. Take scale={curvature / squared:.3g} or "
        f"less; if it diverges for every scale, the curvature is negative somewhere: {damp}. Or "
        "use CG()."
    )

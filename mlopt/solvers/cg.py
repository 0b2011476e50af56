"""`CG`: conjugate gradients."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch

from .._arguments import check_fields, from_one, within
from .._errors import ConvergenceWarning, GraphError
from .._tensors import Tensors
from ._solver import AbstractSolver, Operator, Solution
from ._system import System

__all__ = ["CG"]

# On a positive definite A the residual grows to at most sqrt(condition number) times its lowest:
# this much growth means a condition number over 1e6, or that A is not what it should be.
_GROWTH = 1e3


@dataclass(frozen=True)
class CG(AbstractSolver):
    """Conjugate gradients from x = 0, one product a step: the solver to take first.

        a = r'r / p'Ap;   x' = x + a p;   r' = r - a Ap;   p' = r' + (r'' r' / r'r) p

    with r = b - A x, p = r at first. A must be positive definite. The error falls by
    2 ((sqrt(k) - 1) / (sqrt(k) + 1))^i in the norm of A, k its condition number. Stopping after
    `max_steps` is silent: the solution says that it has not converged.

    It stops early with a `ConvergenceWarning` and the iterate of the lowest residual (after the
    first step's product that is x = 0: no gradient passes, instead of one in a wrong direction) if

    - the curvature p'Ap is negative, or zero up to the rounding of the dtype: the lower problem is
      not at a minimum, or has flat directions;
    - the residual has grown a thousandfold: the operator is not symmetric, or too noisy.

    Do not use it on an indefinite curvature: damp it or take a Gauss-Newton curvature.

    Args:
        max_steps: the most steps.
        tol: the residual |b - A x| / |b| to stop at. It is that of the recurrence, which agrees
            with the true one up to rounding. Less than the dtype's rounding counts as that.

    Raises:
        GraphError: max_steps is not a positive whole number, or tol is not in [0, 1).

    `solve` raises ConvergenceError if A b is zero, beside what every solver raises.

    Reference: Hestenes, Stiefel, "Methods of conjugate gradients for solving linear systems",
    J. Res. NBS 1952; for hypergradients: Rajeswaran et al., "Meta-learning with implicit
    gradients", NeurIPS 2019.
    """

    max_steps: int = 20
    tol: float = 1e-6

    def __post_init__(self) -> None:
        check_fields(self, GraphError, max_steps=from_one, tol=within("[0, 1)"))

    def most_products(self, size: int) -> int:
        del size
        return self.max_steps

    @torch.no_grad()
    def solve(self, operator: Operator, b: Tensors, name: str = "") -> Solution:
        system = System(operator, b, name)
        tol = max(self.tol, system.eps)
        x, r = torch.zeros_like(system.b), system.b
        if system.length == 0:
            return system.solution(x, 0.0, tol)
        p, squared, residual, stretch = r, system.dots((r, r)).item(), 1.0, 0.0
        best = (residual, x)
        for step in range(1, self.max_steps + 1):
            product = system.product(p)
            curvature, pp, qq = system.read(system.dots((p, product), (p, p), (product, product)))
            if step == 1 and qq == 0:
                raise system.no_curvature()
            # A product is known to eps |A| |p| only, and |A p| / |p| is at most |A|.
            stretch = max(stretch, math.sqrt(qq / pp))
            if curvature <= system.eps * stretch * pp:
                kind = "negative" if curvature < -system.eps * stretch * pp else "no"
                return self._stop(
                    system, best, f"met {kind} curvature, p'Ap / p'p = {curvature / pp:.3g},", step
                )
            size = squared / curvature
            x = torch.add(x, p, alpha=size)
            r = torch.sub(r, product, alpha=size)
            before, (squared,) = squared, system.read(system.dots((r, r)))
            residual = math.sqrt(squared) / system.length
            if residual <= tol:
                break
            if residual > _GROWTH * best[0]:
                return self._stop(
                    system, best, f"diverged to a relative residual of {residual:.3g}", step
                )
            if residual < best[0]:
                best = (residual, x)
            p = torch.add(r, p, alpha=squared / before)
        return system.solution(x, residual, tol)

    def _stop(
        self, system: System, best: tuple[float, torch.Tensor], what: str, step: int
    ) -> Solution:
        residual, x = best
        warnings.warn(
            f"{system.where}: CG {what} at step {step} of {self.max_steps}. It returns its best "
            f"iterate, of relative residual {residual:.3g}. The lower problem is not at a strict "
            "minimum, or its curvature is not symmetric: add damping, use a Gauss-Newton "
            "curvature, or take more inner steps.",
            ConvergenceWarning,
            stacklevel=4,  # the caller of solve, past no_grad
        )
        return system.solution(x, residual, max(self.tol, system.eps), warned=True)

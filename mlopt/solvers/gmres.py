"""`GMRES`: the smallest residual, for a matrix that is not symmetric."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._arguments import check_fields, from_one, within
from .._errors import GraphError
from .._tensors import Tensors
from ._solver import AbstractSolver, Operator, Solution
from ._system import System

__all__ = ["GMRES"]


@dataclass(frozen=True)
class GMRES(AbstractSolver):
    """Generalised minimal residuals from x = 0, one product a step: for any invertible A.

        x_i = argmin |b - A x|  over x in span(b, A b, ..., A^(i-1) b)

    The solver for the equilibrium of a game, whose matrix is not symmetric, and for a curvature
    that is indefinite. The residual never grows. It holds one vector of b's size per step, and
    orthogonalises twice. Stopping after `max_steps` is silent: the solution says that it has not
    converged.

    Do not use it where A is symmetric positive definite: `CG` does as well with four vectors.

    Args:
        max_steps: the most steps.
        tol: the residual |b - A x| / |b| to stop at. Less than the dtype's rounding counts as that.

    Raises:
        GraphError: max_steps is not a positive whole number, or tol is not in [0, 1).

    `solve` raises ConvergenceError if A b is zero, beside what every solver raises.

    Reference: Saad, Schultz, "GMRES: a generalized minimal residual algorithm for solving
    nonsymmetric linear systems", SIAM J. Sci. Stat. Comput. 1986.
    """

    max_steps: int = 20
    tol: float = 1e-6

    general = True

    def __post_init__(self) -> None:
        check_fields(self, GraphError, max_steps=from_one, tol=within("[0, 1)"))

    def most_products(self, size: int) -> int:
        return min(self.max_steps, size)

    @torch.no_grad()
    def solve(self, operator: Operator, b: Tensors, name: str = "") -> Solution:
        system = System(operator, b, name)
        tol = max(self.tol, system.eps)
        if system.length == 0:
            return system.solution(torch.zeros_like(system.b), 0.0, tol)
        steps = self.most_products(system.size)
        basis = system.b.new_zeros(steps + 1, system.b.numel())
        basis[0] = system.b / system.length
        # A basis[:i]' = basis[:i+1]' reduced; on the host, where the small systems are solved.
        reduced = torch.zeros(steps + 1, steps, dtype=torch.float64)
        residual, weights = 1.0, reduced[:0, 0]
        for i in range(steps):
            product = system.product(basis[i])
            column, rest, largest = _orthogonal(system, basis[: i + 1], product)
            if i == 0 and largest == 0:
                raise system.no_curvature()
            reduced[: i + 2, i] = column
            # Nothing new is left but rounding: the space holds all that it ever will.
            ended = column[-1].item() <= system.eps * largest
            weights, residual = _least(reduced[: i + 1 if ended else i + 2, : i + 1])
            if residual <= tol or ended:
                break
            basis[i + 1] = rest / column[-1].item()
        x = system.length * (weights.to(basis) @ basis[: len(weights)])
        return system.solution(x, residual, tol)


def _orthogonal(system: System, basis: Tensor, product: Tensor) -> tuple[Tensor, Tensor, float]:
    """The parts of a product along the basis and past it, what is past it, and its length."""
    along = system.along(basis, product)
    rest = product - along @ basis
    again = system.along(basis, rest)  # the second time takes away what rounding has left
    rest = rest - again @ basis
    ends = system.norms(rest, product)
    column = system.read(torch.cat([along + again, ends]).double())
    return torch.tensor(column[:-1], dtype=torch.float64), rest, column[-1]


def _least(reduced: Tensor) -> tuple[Tensor, float]:
    """The y of the smallest |e - R y| for e = (1, 0, ...), and the residual."""
    first = reduced.new_zeros(len(reduced), 1)
    first[0] = 1.0
    y = torch.linalg.lstsq(reduced, first, driver="gelsd").solution
    return y[:, 0], torch.linalg.vector_norm(first - reduced @ y).item()

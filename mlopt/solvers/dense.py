"""`Dense`: the matrix itself, for small problems and as a reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .._arguments import check_fields, from_one
from .._errors import ConvergenceError, GraphError
from .._tensors import Tensors
from ._solver import AbstractSolver, Operator, Solution
from ._system import System

__all__ = ["Dense"]


@dataclass(frozen=True)
class Dense(AbstractSolver):
    """Build A column by column, and solve by its singular values.

        A = U diag(s) V';    x = V (U'b / s)

    As many products as b has numbers, and the cube of it in time. A matrix that is indefinite or
    not symmetric is solved as it is: x is then the solution, though no lower minimum stands behind
    it.

    Do not use it for networks: it is there for small problems, tests and audits.

    Args:
        max_size: the most numbers that b may have.

    Raises:
        GraphError: max_size is not a positive whole number.

    `solve` raises GraphError if b is larger and ConvergenceError if A is singular up to rounding,
    beside what every solver raises.
    """

    max_size: int = 2000

    general = True

    def __post_init__(self) -> None:
        check_fields(self, GraphError, max_size=from_one)

    def most_products(self, size: int) -> int:
        return size

    @torch.no_grad()
    def solve(self, operator: Operator, b: Tensors, name: str = "") -> Solution:
        system = System(operator, b, name, whole=True)
        size = system.b.numel()
        if size > self.max_size:
            raise GraphError(
                f"{system.where}: Dense(max_size={self.max_size}) got b with {size} numbers, and "
                "would take as many products. Use CG(), Nystrom() or a larger max_size."
            )
        if system.length == 0:
            return system.solution(system.b, 0.0)
        columns = torch.eye(size, dtype=system.b.dtype, device=system.b.device).unbind()
        matrix = torch.stack([system.product(column) for column in columns], 1)
        left, values, right = torch.linalg.svd(matrix)
        if values[-1] <= size * system.eps * values[0]:
            raise ConvergenceError(
                f"{system.where}: A is singular: its singular values reach from "
                f"{values[-1].item():.3g} to {values[0].item():.3g}. Add damping, or a regularizer "
                "to the lower loss."
            )
        x = right.T @ ((left.T @ system.b) / values)
        residual = torch.linalg.vector_norm(system.b - matrix @ x).item() / system.length
        return system.solution(x, residual)

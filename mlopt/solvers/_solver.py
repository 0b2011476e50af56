"""What a solver of A x = b takes and gives."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass

from .._tensors import Tensors

__all__ = ["AbstractSolver", "Operator", "Solution"]

#: v -> A v, for tensors by key. Keys absent from the result are zero.
Operator = Callable[[Tensors], Tensors]


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    Attributes:
        value: x, with the keys, shapes, dtypes and devices of b.
        products: how often the operator was called.
        residual: |b - A x| / |b|, as far as the solver knows it; 0.0 for b = 0.
        converged: the residual is within the solver's tolerance; for a solver that has none,
            within the square root of the dtype's rounding.
        warned: the solver has said itself, by a `ConvergenceWarning`, why it ended early.
    """

    value: Tensors
    products: int
    residual: float
    converged: bool
    warned: bool = False


class AbstractSolver(abc.ABC):
    """Solves A x = b by products with A alone, which is never stored but by `Dense`.

    The implicit hypergradient is such a system: A is the Hessian of the lower problem, b the
    gradient of its reader. All tensors of b are one vector to a solver: how a vector is split
    over keys does not matter.
    """

    #: Whether A may be any invertible matrix, as that of an equilibrium is; else it is symmetric.
    general: bool = False

    @abc.abstractmethod
    def solve(self, operator: Operator, b: Tensors, name: str = "") -> Solution:
        """Solve A x = b.

        The operator is called with gradients off: one that differentiates turns them on itself.
        It must not write into what it is given.

        Args:
            operator: v -> A v. It gets all keys of b, and may leave out those that are zero.
            b: the right-hand side, real tensors by key, all on one device.
            name: label of the problem, for messages.

        Returns:
            x and what it took. b = 0 gives exactly zero, without a product.

        Raises:
            GraphError: b is not real, or the operator returned an unknown key or a wrong shape.
            NonFiniteError: b or a product is infinite or not a number.
            ConvergenceError: the system cannot be solved by this solver.
        """

    @abc.abstractmethod
    def most_products(self, size: int) -> int:
        """The most products that `solve` takes when b has `size` numbers; for plans."""

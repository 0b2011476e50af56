"""A x = b on one flat vector: what the solvers compute on."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from .._errors import ConvergenceError, GraphError, NonFiniteError
from .._tensors import Tensors, continuous, like, real
from ._solver import Operator, Solution

__all__ = ["System"]


class System:
    """One system, flattened in the order of b's keys; it checks and counts the products.

    b is divided by a power of two, so that squares of tiny or huge gradients neither vanish nor
    overflow; `solution` multiplies it back. Neither rounds. Half-precision tensors are computed
    on in float32. Complex ones are pairs of real ones: the operator need be linear in these alone.

    Args:
        operator: v -> A v.
        b: the right-hand side.
        name: label of the problem, for messages.

    Attributes:
        b: the right-hand side, flat and scaled.
        length: |b| as scaled; zero if and only if b is zero.
        eps: the rounding of the coarsest dtype among b's tensors.
        products: how often the operator was called.

    Raises:
        GraphError: b does not consist of floating-point numbers.
        NonFiniteError: b is infinite or not a number.
    """

    def __init__(self, operator: Operator, b: Tensors, name: str) -> None:
        self.name = name
        self.where = name or "A x = b"
        self.products = 0
        self._operator = operator
        self._like = b
        for key, t in b.items():
            if not continuous(t):
                raise GraphError(
                    f"{self.where}: b is {t.dtype} at {key!r}; solvers take floating-point tensors."
                )
        dtypes = [t.dtype.to_real() for t in b.values()]
        self._dtype = functools.reduce(torch.promote_types, dtypes, torch.float32)
        self.eps = max((torch.finfo(d).eps for d in dtypes), default=0.0)
        flat = self._flatten(b)
        peak = flat.abs().amax().item() if flat.numel() else 0.0
        if not math.isfinite(peak):
            raise NonFiniteError(
                f"{self.where}: the right-hand side of A x = b is not finite{self._culprits(b)}. "
                "Look at the reader's loss and its gradient first.",
                problem=name,
            )
        self._factor = 2.0 ** (math.frexp(peak)[1] - 1)
        self.b = flat / self._factor
        self.length = torch.linalg.vector_norm(self.b).item()

    def product(self, vector: Tensor) -> Tensor:
        """A times a flat vector."""
        self.products += 1
        product = self._operator(self._split(vector))
        for key, t in product.items():
            if key not in self._like:
                raise GraphError(
                    f"{self.where}: the operator returned {key!r}, of shape {tuple(t.shape)}, "
                    f"which b lacks. b has {list(self._like)!r}."
                )
            if t.shape != self._like[key].shape:
                raise GraphError(
                    f"{self.where}: the operator returned shape {tuple(t.shape)} for {key!r}, "
                    f"and b has {tuple(self._like[key].shape)}. It must map each key to its shape."
                )
        flat = self._flatten(product)
        if not torch.isfinite(flat).all():
            raise NonFiniteError(
                f"{self.where}: product {self.products} with the curvature is not finite"
                f"{self._culprits(product)}. Take a smaller learning rate or damp the curvature; "
                "look for operations without a second derivative (sqrt or norm at 0).",
                problem=self.name,
            )
        return flat

    def read(self, numbers: Tensor) -> list[float]:
        """Numbers by which a solver decides, on the host.

        Args:
            numbers: a scalar or a vector.

        Returns:
            Them, all finite.

        Raises:
            NonFiniteError: one is not: no decision follows from it.
        """
        found = numbers.reshape(-1).tolist()
        if not all(map(math.isfinite, found)):
            raise NonFiniteError(
                f"{self.where}: what a solver makes of product {self.products} with the curvature "
                "is not finite: squares of its numbers overflow. Compute in a wider dtype, or "
                "scale the loss down.",
                problem=self.name,
            )
        return found

    def solution(
        self, x: Tensor, residual: float, tol: float | None = None, warned: bool = False
    ) -> Solution:
        """The answer in the shapes of b, undone from the scaling.

        Args:
            x: the solution of the scaled system.
            residual: relative to |b|.
            tol: what residual counts as converged; None: the square root of the rounding.
            warned: the solver has warned itself.

        Returns:
            The answer, whose tensors share no memory.
        """
        tol = math.sqrt(self.eps) if tol is None else tol
        # Not views of one vector: those would share a version counter.
        value = {key: t.clone() for key, t in self._split(x * self._factor).items()}
        return Solution(value, self.products, residual, residual <= tol, warned)

    def no_curvature(self) -> ConvergenceError:
        """The error of an operator that is zero."""
        return ConvergenceError(
            f"{self.where}: the curvature is zero, so that A x = b has no solution. The lower "
            "loss is linear in its variables here, or does not use them. Add damping, or a "
            "regularizer to the lower loss; if it is not solved for, use OneStep or Frozen."
        )

    def _flatten(self, tensors: Tensors) -> Tensor:
        parts = [
            torch.zeros_like(real(b), dtype=self._dtype).reshape(-1)
            if (t := tensors.get(key)) is None
            else real(t).reshape(-1).to(self._dtype)
            for key, b in self._like.items()
        ]
        return torch.cat(parts) if parts else torch.zeros(0)

    def _split(self, vector: Tensor) -> Tensors:
        parts = vector.split([real(t).numel() for t in self._like.values()])
        return {
            key: like(part.view(real(b).shape), b)
            for part, (key, b) in zip(parts, self._like.items(), strict=True)
        }

    def _culprits(self, tensors: Tensors) -> str:
        keys = [key for key, t in tensors.items() if not torch.isfinite(t).all()]
        return f" at {keys!r}" if keys else ""  # none: it overflowed on the way

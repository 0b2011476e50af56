"""A x = b on one flat vector: what the solvers compute on."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from .._errors import ConvergenceError, GraphError, NonFiniteError
from .._tensors import Key, Tensors, continuous, like, real, spread
from ..distributed.spread import shard_of
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
        whole: whether a tensor that is spread over ranks is taken whole on each, and not by its
            rows. Then a solver computes as on one process; else it takes its numbers by `dots`,
            `norms` and `along`, and the vectors are of this rank's rows.

    Attributes:
        b: the right-hand side, flat and scaled.
        length: |b| as scaled; zero if and only if b is zero.
        eps: the rounding of the coarsest dtype among b's tensors.
        size: how many numbers b has on all ranks.
        products: how often the operator was called.

    Raises:
        GraphError: b does not consist of floating-point numbers.
        NonFiniteError: b is infinite or not a number.
    """

    def __init__(self, operator: Operator, b: Tensors, name: str, whole: bool = False) -> None:
        self.name = name
        self.where = name or "A x = b"
        self.products = 0
        self._operator = operator
        over = spread()
        self._whole = {k: shard for k in b if whole and (shard := shard_of(k)) is not None}
        self._over = None if whole or over is None or all(k not in over for k in b) else over
        if self._over is not None:  # rows first
            b = dict(sorted(b.items(), key=lambda item: item[0] not in self._over))  # type: ignore[operator]
        self._like = b
        own = [real(t).numel() for k, t in b.items() if self._over is not None and k in self._over]
        self._rows = sum(own)
        for key, t in b.items():
            if not continuous(t):
                raise GraphError(
                    f"{self.where}: b is {t.dtype} at {key!r}; solvers take floating-point tensors."
                )
        dtypes = [t.dtype.to_real() for t in b.values()]
        self._dtype = functools.reduce(torch.promote_types, dtypes, torch.float32)
        self.eps = max((torch.finfo(d).eps for d in dtypes), default=0.0)
        flat = self._flatten(b)
        self.size = flat.numel()
        top = flat.abs().amax() if flat.numel() else flat.new_zeros(())
        if self._over is not None:
            top = self._over.most(top)
            self.size += int(self._over.add(torch.tensor(float(self._rows)))) - self._rows
        peak = top.item()
        if not math.isfinite(peak):
            raise NonFiniteError(
                f"{self.where}: the right-hand side of A x = b is not finite{self._culprits(b)}. "
                "Look at the reader's loss and its gradient first.",
                problem=name,
            )
        self._factor = 2.0 ** (math.frexp(peak)[1] - 1)
        self.b = flat / self._factor
        self.length = self.norms(self.b).item()

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
        bad = torch.isfinite(flat).all().logical_not()
        if bad if self._over is None else self._over.most(bad.float()) > 0:
            raise NonFiniteError(
                f"{self.where}: product {self.products} with the curvature is not finite"
                f"{self._culprits(product)}. Take a smaller learning rate or damp the curvature; "
                "look for operations without a second derivative (sqrt or norm at 0).",
                problem=self.name,
            )
        return flat

    def dots(self, *pairs: tuple[Tensor, Tensor]) -> Tensor:
        """The scalar products of pairs of vectors."""
        if self._over is None:
            return torch.stack([a @ b for a, b in pairs])
        n = self._rows
        own = self._over.add(torch.stack([a[:n] @ b[:n] for a, b in pairs]))
        return own + torch.stack([a[n:] @ b[n:] for a, b in pairs])

    def norms(self, *vectors: Tensor) -> Tensor:
        """The lengths of vectors."""
        if self._over is None:
            return torch.stack([torch.linalg.vector_norm(v) for v in vectors])
        return self.dots(*((v, v) for v in vectors)).sqrt()

    def along(self, basis: Tensor, vector: Tensor) -> Tensor:
        """The scalar products of a vector with each row of a matrix."""
        if self._over is None:
            return basis @ vector
        n = self._rows
        return self._over.add(basis[:, :n] @ vector[:n]) + basis[:, n:] @ vector[n:]

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
            self._of(key, torch.zeros_like(b) if (t := tensors.get(key)) is None else t)
            for key, b in self._like.items()
        ]
        return torch.cat(parts) if parts else torch.zeros(0)

    def _of(self, key: Key, tensor: Tensor) -> Tensor:
        """The numbers of one tensor, as the solver has them."""
        if key in self._whole:
            tensor = self._whole[key].gather(tensor)
        return real(tensor).reshape(-1).to(self._dtype)

    def _split(self, vector: Tensor) -> Tensors:
        shapes = {k: real(t).shape for k, t in self._like.items()}
        shapes.update({k: torch.Size(shard.shape) for k, shard in self._whole.items()})
        parts = vector.split([shape.numel() for shape in shapes.values()])
        found = {k: part.view(shapes[k]) for k, part in zip(shapes, parts, strict=True)}
        found.update({k: shard.rows(found[k]) for k, shard in self._whole.items()})
        return {k: like(t, self._like[k]) for k, t in found.items()}

    def _culprits(self, tensors: Tensors) -> str:
        keys = [key for key, t in tensors.items() if not torch.isfinite(t).all()]
        return f" at {keys!r}" if keys else ""  # none: it overflowed on the way

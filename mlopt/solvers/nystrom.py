"""`Nystrom`: a randomized low-rank approximation, inverted in closed form."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from .._arguments import a_seed, check_fields, from_one, positive
from .._errors import ConvergenceError, ConvergenceWarning, GraphError
from .._tensors import Tensors
from ._solver import AbstractSolver, Operator, Solution
from ._system import System

__all__ = ["Nystrom"]


@dataclass(frozen=True)
class Nystrom(AbstractSolver):
    """Solve (A_nys + damping I) x = b, A_nys the Nystrom approximation from random directions.

        A_nys = (A Q) (Q' A Q)^-1 (A Q)' = U diag(l) U'
        x = U (U'b / (l + damping)) + (b - U U'b) / damping

    with Q orthonormal directions, drawn from a generator of its own. It takes `rank` products and
    one for the residual, all known beforehand, and none depends on another's result. Good where
    few large eigenvalues stand out of a spectrum below the damping. Exact for the damped system if
    the rank of A is at most `rank`.

    The residual is that of A x = b without damping, and therefore large along directions whose
    eigenvalue is below the damping. Negative curvature is left out, with a `ConvergenceWarning`,
    as if it were zero. The directions belong to the positions in the flat vector: another order of
    the keys draws another approximation. It holds several vectors of b's size per rank.

    Do not use it where many eigenvalues exceed the damping: the rest of b is divided by the
    damping instead of them.

    Args:
        rank: how many directions; no more than b has numbers are used.
        damping: what is added to the diagonal.
        seed: of the directions.

    Raises:
        GraphError: rank is not a positive whole number, seed none that torch takes, or damping not
            positive and finite.

    `solve` raises ConvergenceError if A is zero or negative on all directions, beside what every
    solver raises.

    Reference: Hataya, Yamada, "Nystrom method for accurate and scalable implicit differentiation",
    AISTATS 2023; the shift: Frangella, Tropp, Udell, "Randomized Nystrom preconditioning",
    SIAM J. Matrix Anal. Appl. 2023, Alg. 2.1.
    """

    rank: int = 10
    damping: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(
            self,
            GraphError,
            rank=from_one,
            damping=positive,  # a low-rank matrix has no inverse without it
            seed=a_seed,
        )

    def most_products(self, size: int) -> int:
        return min(self.rank, size) + 1

    @torch.no_grad()
    def solve(self, operator: Operator, b: Tensors, name: str = "") -> Solution:
        system = System(operator, b, name, whole=True)
        if system.length == 0:
            return system.solution(system.b, 0.0)
        vectors, values, warned = self._approximate(system)
        inside = vectors.T @ system.b
        outside = system.b - vectors @ inside
        x = vectors @ (inside / (values + self.damping)) + outside / self.damping
        residual = torch.linalg.vector_norm(system.b - system.product(x)).item() / system.length
        return system.solution(x, residual, warned=warned)

    def _approximate(self, system: System) -> tuple[Tensor, Tensor, bool]:
        """U and l of A_nys, and whether something was left out, of which it has warned."""
        b, rank = system.b, min(self.rank, system.b.numel())
        # On the CPU and in float32: the same directions on any device and in any dtype.
        generator = torch.Generator().manual_seed(self.seed)
        draw = torch.randn(b.numel(), rank, generator=generator, dtype=torch.float32)
        basis = torch.linalg.qr(draw.to(b))[0]
        image = torch.stack([system.product(q) for q in basis.T.contiguous()], 1)
        (size,) = system.read(torch.linalg.matrix_norm(image))
        if size == 0:
            raise system.no_curvature()
        # Without the shift rounding makes the core of a low-rank A indefinite.
        shift = math.sqrt(b.numel()) * system.eps * size
        image = image + shift * basis
        core = basis.T @ image
        weights, rotation = torch.linalg.eigh((core + core.T) / 2)
        (least, *_) = system.read(weights)
        kept, whole = weights > 0, least > 0
        if not whole:
            left_out = int((~kept).sum())
            message = (
                f"{system.where}: Nystrom met negative curvature, {least - shift:.3g}, "
                f"in {left_out} of {rank} directions{{}}. The lower problem is not at a minimum: "
                "take more inner steps, or use a Gauss-Newton curvature."
            )
            if left_out == rank:
                raise ConvergenceError(message.format(" and has nothing to work on"))
            # The level is the caller of solve, past no_grad.
            warnings.warn(message.format(", which it leaves out"), ConvergenceWarning, stacklevel=4)
        root = image @ (rotation[:, kept] / weights[kept].sqrt())  # A_nys = root root' - shift
        # By QR first: the other matrices are small then, however long b is.
        outer, inner = torch.linalg.qr(root)
        left, singular, _ = torch.linalg.svd(inner)
        return outer @ left, (singular**2 - shift).clamp(min=0), not whole

"""Optima by Newton's method, and linear systems with the Hessian there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._tensors import Tensors, dense, real
from .vectors import dimension, flat, shaped

__all__ = ["NoOracle", "Optimum", "inverse"]

#: (w, order) -> w as it was differentiated by, dF/dw there, differentiable `order` times.
Gradient = Callable[[Tensors, int], tuple[Tensors, Tensors]]


class NoOracle(Exception):
    """This value cannot be had independently of the engine; the message says why."""


class Optimum:
    """Where dF/dw has a given value: zero, if no target is given.

    Args:
        name: the problem's label.
        limit: the most numbers for which a matrix is built; beyond it conjugate gradients serve.
        symmetric: whether the matrix is: that of an equilibrium is not.
    """

    def __init__(self, name: str, limit: int, symmetric: bool = True) -> None:
        self.name, self.limit, self.symmetric = name, limit, symmetric
        self._factor: Any = None

    def find(self, slope: Gradient, w: Tensors, target: Tensor | None = None) -> Tensors:
        """The stationary point that Newton's method reaches from w.

        The matrix of an earlier search serves as long as it makes good progress.

        Args:
            slope: of the objective.
            w: where to start.
            target: the value of dF/dw, flat.

        Returns:
            The point.

        Raises:
            NoOracle: it is not reached.
        """
        before, step = float("inf"), None
        for _ in range(100):
            leaves, g = slope(w, 1)
            residual = flat(g, w).detach() - (0.0 if target is None else target)
            length, size = float(residual.norm()), float(flat(w, w).norm())
            if step is not None and not length < before:
                if float(step.norm()) <= 1e-11 * (1e-3 + size):
                    return w  # no better for rounding
                self._factor, step = None, step / 2
                w = {k: w[k] + s for k, s in shaped(step, w).items()}
                continue
            solve = self._solver(leaves, g, again=length > 0.3 * before)
            step, before = solve(residual), length
            if not torch.isfinite(step).all():
                break
            w = {k: w[k] - s for k, s in shaped(step, w).items()}
            if float(step.norm()) <= 1e-14 * (1e-3 + size):
                return w
        raise NoOracle(f"{self.name} could not be minimised anew from where it stands")

    def _solver(self, leaves: Tensors, g: Tensors, again: bool) -> Callable[[Tensor], Tensor]:
        if dimension(leaves) > self.limit:
            return inverse(leaves, g, self.name, self.limit, symmetric=self.symmetric)
        if again or self._factor is None:
            self._factor = torch.linalg.lu_factor(_matrix(leaves, g))
        factor = self._factor
        return lambda b: torch.linalg.lu_solve(*factor, b[:, None])[:, 0]

    def differentiable(
        self, slope: Gradient, w: Tensors, target: Tensor | None, order: int
    ) -> Tensors:
        """The same point as a function of what the slope depends on.

        A Newton step from the optimum, with a matrix that is constant at first and then depends on
        the arguments as well, has the derivatives of the optimum.

        Args:
            slope: of the objective.
            w: its optimum.
            target: the value of dF/dw, flat.
            order: how often it will be differentiated, up to 3.

        Returns:
            The point, with a graph.

        Raises:
            NoOracle: it is too large for a matrix.
        """
        if order and dimension(w) > self.limit:
            raise NoOracle(f"{self.name} has too many numbers for a matrix; raise dense_limit")
        for i in range(min(order, 2)):
            leaves, g = slope(w, order)
            with torch.enable_grad():
                residual = flat(g, w) - (0.0 if target is None else target)
                matrix = _matrix(leaves, g, create_graph=i > 0)
                step = torch.linalg.solve(matrix, residual)
                w = {k: w[k] - s for k, s in shaped(step, w).items()}
        return w


def inverse(
    leaves: Tensors,
    g: Tensors,
    name: str,
    limit: int,
    damping: float = 0.0,
    symmetric: bool = True,
) -> Callable[[Tensor], Tensor]:
    """B -> (H + damping I)^-1 b: by a matrix where it fits, else by conjugate gradients.

    Args:
        leaves: w.
        g: dF/dw, a function of them.
        name: the problem's label.
        limit: the most numbers for which a matrix is built.
        damping: added to H.
        symmetric: whether H is; if not it has to fit.

    Returns:
        The function; it raises `NoOracle` where it finds no solution.

    Raises:
        NoOracle: it is not symmetric and does not fit.
    """
    if dimension(leaves) <= limit:
        matrix = _matrix(leaves, g)
        matrix = matrix + damping * torch.eye(len(matrix), dtype=matrix.dtype).to(matrix)
        return lambda b: torch.linalg.solve(matrix, b)

    if not symmetric:
        raise NoOracle(f"{name} have too many numbers for a matrix; raise dense_limit")

    def product(v: Tensor) -> Tensor:
        pairs = [(g[k], t) for k, t in shaped(v, leaves).items() if k in g and g[k].requires_grad]
        found = torch.autograd.grad(
            [h for h, _ in pairs], list(leaves.values()), [t for _, t in pairs],
            retain_graph=True, allow_unused=True,
        )  # fmt: skip
        found = {k: t for k, t in zip(leaves, found, strict=True) if t is not None}
        return flat(dense(found), leaves) + damping * v

    def solve(b: Tensor) -> Tensor:
        x, r, p = torch.zeros_like(b), b, b
        length = r @ r
        for _ in range(1000):
            if float(length) <= 1e-24 * float(b @ b):
                return x
            hp = product(p)
            if not float(p @ hp) > 0:
                raise NoOracle(f"the objective of {name} is not convex where it stands")
            size = length / (p @ hp)
            x, r, before = x + size * p, r - size * hp, length
            length = r @ r
            p = r + length / before * p
        raise NoOracle(f"{name}: 1000 products do not solve H x = b")

    return solve


@torch.enable_grad()
def _matrix(leaves: Tensors, g: Tensors, create_graph: bool = False) -> Tensor:
    """The Hessian, row by row; a parameter that F does not use has a one on the diagonal."""
    rows: list[Tensor] = []
    for key, leaf in leaves.items():
        if key not in g:
            own = {key: leaf}
            units = torch.eye(dimension(own), device=leaf.device)
            rows.extend(flat(shaped(unit, own), leaves) for unit in units)
            continue
        for number in real(g[key]).reshape(-1).unbind():
            found: Any = [None] * len(leaves)
            if number.requires_grad:
                found = torch.autograd.grad(
                    number, list(leaves.values()), create_graph=create_graph, retain_graph=True,
                    allow_unused=True,
                )  # fmt: skip
            row = {k: t for k, t in zip(leaves, found, strict=True) if t is not None}
            rows.append(flat(dense(row), leaves))
    return torch.stack(rows)

"""Dense systems, counted operators, and answers by numpy for the tests of the solvers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from compare import rounding
from torch import Tensor

F64 = torch.float64


def symmetric(eigenvalues: Sequence[float] | np.ndarray, seed: int = 0) -> np.ndarray:
    """A symmetric matrix with these eigenvalues, and random eigenvectors."""
    values = np.asarray(eigenvalues, dtype=np.float64)
    square = np.random.default_rng(seed).standard_normal((len(values), len(values)))
    q, _ = np.linalg.qr(square)
    return (q * values) @ q.T


def vector(size: int, seed: int = 100) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size)


class Matrix:
    """The operator of a matrix on one key, or on several keys that a vector is cut into.

    `calls` counts; `seen` are the keys it was last given.
    """

    def __init__(
        self,
        matrix: np.ndarray,
        device: Any = "cpu",
        shapes: dict[Any, tuple[int, ...]] | None = None,
        dtype: torch.dtype = F64,
    ) -> None:
        self.shapes = {"x": (len(matrix),)} if shapes is None else shapes
        self.matrix = torch.tensor(matrix, dtype=dtype, device=device)
        self.calls = 0
        self.seen: list[Any] = []

    def cut(self, values: np.ndarray | Tensor) -> dict[Any, Tensor]:
        flat = torch.as_tensor(values, dtype=self.matrix.dtype, device=self.matrix.device)
        sizes = [int(np.prod(s)) for s in self.shapes.values()]
        parts = flat.split(sizes)
        return {k: p.reshape(s) for p, (k, s) in zip(parts, self.shapes.items(), strict=True)}

    def join(self, tensors: dict[Any, Tensor]) -> Tensor:
        return torch.cat([tensors[k].reshape(-1) for k in self.shapes])

    def __call__(self, v: dict[Any, Tensor]) -> dict[Any, Tensor]:
        self.calls += 1
        self.seen = list(v)
        assert all(v[k].shape == s for k, s in self.shapes.items())
        return self.cut(self.matrix @ self.join(v))


def solved(solver: Any, matrix: np.ndarray, b: np.ndarray, device: Any = "cpu") -> Any:
    """x as a numpy array, and the solution; its products are counted and bounded."""
    operator = Matrix(matrix, device)
    solution = solver.solve(operator, operator.cut(b), "lower")
    assert solution.products == operator.calls <= solver.most_products(len(b))
    return solution.value["x"].cpu().numpy(), solution


def true_residual(matrix: np.ndarray, x: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(b - matrix @ x) / np.linalg.norm(b))


def solve_rounding(matrix: np.ndarray) -> float:
    """Of one solution against another, each of 3 n roundings that grow at most twofold."""
    return rounding(2 * 2 * 3 * len(matrix), float(np.linalg.cond(matrix)))


def residual_rounding(matrix: np.ndarray, x: np.ndarray, b: np.ndarray, steps: int = 1) -> float:
    """Of a residual, relative to b, that so many steps have updated."""
    condition = 1 + float(np.linalg.norm(matrix, 2) * np.linalg.norm(x) / np.linalg.norm(b))
    return rounding(2 * 2 * 3 * len(matrix) * steps, condition)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))

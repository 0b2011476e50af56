"""A smooth quadratic bilevel problem of which everything is known in closed form."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from small import F64
from torch import Tensor, nn

import mlopt


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def _curvature(seed: int, size: int) -> Tensor:
    """Symmetric, with eigenvalues between 0.5 and 2."""
    q, _ = torch.linalg.qr(_random(seed, size, size))
    return q @ torch.diag(torch.linspace(0.5, 2.0, size, dtype=F64)) @ q.T


@dataclass
class Quadratic:
    """The lower level is g = y'Hy/2 - y'(Bx + c); the upper F = |y - t|^2/2 + rho |x|^2/2 + x'Dy.

    Attributes:
        n: size of y; x has 2 numbers.
    """

    n: int = 3
    rho: float = 0.5
    lr: tuple[float, float] = (0.4, 0.1)
    optimizer: type = torch.optim.SGD
    H: Tensor = field(init=False)

    def __post_init__(self) -> None:
        n = self.n
        self.H, self.B, self.c = _curvature(1, n), _random(2, n, 2), _random(3, n)
        self.t, self.D = _random(4, n), 0.1 * _random(5, 2, n)
        self.Y = mlopt.Variable(nn.Parameter(_random(6, n)), "y")
        self.X = mlopt.Variable(nn.Parameter(_random(7, 2)), "x")
        self.lower = mlopt.problem(
            over=self.Y,
            given=[self.X],
            optimizer=self.optimizer(self.Y.parameters(), lr=self.lr[0]),
        )(self.g)
        self.upper = mlopt.problem(
            over=self.X,
            given=[self.Y],
            optimizer=self.optimizer(self.X.parameters(), lr=self.lr[1]),
        )(self.F)

    def g(self, y: Tensor, x: Tensor) -> Tensor:
        return 0.5 * y @ self.H @ y - y @ (self.B @ x + self.c)

    def F(self, x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (y - self.t).square().sum() + 0.5 * self.rho * x @ x + x @ self.D @ y

    def solution(self, x: Tensor) -> Tensor:
        """y*(x)."""
        return torch.linalg.solve(self.H, self.B @ x + self.c)

    def penalised(self, x: Tensor, w: float) -> Tensor:
        """The minimum over y of F + w g."""
        eye = torch.eye(self.n, dtype=F64)
        right = self.t - self.D.T @ x + w * (self.B @ x + self.c)
        return torch.linalg.solve(eye + w * self.H, right)

    def hypergradient(self, x: Tensor) -> Tensor:
        y = self.solution(x)
        dy = torch.linalg.solve(self.H, self.B)
        return self.rho * x + self.D @ y + dy.T @ (y - self.t + self.D.T @ x)

    def penalised_gradient(self, x: Tensor, w: float) -> Tensor:
        """d/dx [min_y (F + w g) - w min_z g], by autograd through both minima."""
        x = x.detach().requires_grad_()
        y, z = self.penalised(x, w), self.solution(x)
        value = self.F(x, y) + w * self.g(y, x) - w * self.g(z, x)
        return torch.autograd.grad(value, x)[0]

    def optimum(self, w: float | None = None) -> Tensor:
        """The x where the hypergradient (or that of the penalised problem) is zero."""
        gradient = self.hypergradient if w is None else lambda x: self.penalised_gradient(x, w)
        zero = torch.zeros(2, dtype=F64)
        offset = gradient(zero)  # the gradient is affine in x
        slope = torch.stack([gradient(e) - offset for e in torch.eye(2, dtype=F64)], dim=1)
        return torch.linalg.solve(slope, -offset)

    def place(self, **values: Tensor) -> None:
        with torch.no_grad():
            for name, value in values.items():
                getattr(self, name).tensor.copy_(value)

"""`ZerothOrder`: a solution differentiated by looking at it from both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._arguments import check_fields, from_one, positive
from .._errors import GraphError
from .._tensors import Key, Tensors, dot, scale
from .interface import AbstractHypergradient, Cost, Response, gradient
from .one_step import OneStep

__all__ = ["ZerothOrder"]


@dataclass(frozen=True)
class ZerothOrder(AbstractHypergradient):
    """The derivative of a one-step solution by random antithetic displacements of its arguments.

        pullback to r:  mean over u of  u < c , s(r + radius u) - s(r - radius u) > / (2 radius)

    u is standard normal, the same for all arguments together. Only gradients of F by w are taken,
    never by r: r may enter through what cannot be differentiated. Unbiased for a solution linear in
    r, with an error of O(radius^2) else; its relative variance is about dim(r) / samples, so do not
    use it for more than a few arguments where anything else serves.

    Args:
        method: whose solution it is: a `OneStep`.
        samples: number of displacements u, two evaluations each.
        radius: size of the displacement of each number.

    Raises:
        GraphError: an option is not what it must be.

    Reference: Nesterov, Spokoiny, "Random Gradient-Free Minimization of Convex Functions", 2017;
    Salimans et al., "Evolution Strategies as a Scalable Alternative", 2017 (antithetic pairs).
    """

    method: OneStep = field(default_factory=OneStep)
    samples: int = 8
    radius: float = 1e-3

    def __post_init__(self) -> None:
        if not isinstance(self.method, OneStep):
            raise GraphError(
                f"ZerothOrder(method={self.method!r}): it differentiates the solution of a "
                "OneStep(...)."
            )
        check_fields(self, GraphError, samples=from_one, radius=positive)

    differs = True
    separable = False  # all that is asked for is displaced together

    @property
    def moves(self) -> bool:
        return True

    @property
    def responds(self) -> bool:
        return True

    @property
    def cost(self) -> Cost:
        return Cost(evaluations=2 * self.samples, backwards=2 * self.samples)

    def check(self, name: str, optimizer: Any) -> None:
        self.method.check(name, optimizer)

    def solution(self, response: Response) -> Tensors:
        return self.method.solution(response)

    def pullback(self, response: Response, cotangent: Tensors, wanted: Sequence[Key]) -> Tensors:
        cotangent = {k: c for k, c in cotangent.items() if k in response.gradient}
        if not cotangent:
            return {}
        direction = self.method.direction(response, cotangent)
        generator = torch.Generator().manual_seed(response.seed)
        total: Tensors = {k: torch.zeros_like(response.arguments[k]) for k in wanted}
        for _ in range(self.samples):
            u = {k: _normal(response, k, generator) for k in wanted}
            change = self._along(response, direction, u) - self._along(
                response, direction, scale(u, -1.0)
            )
            total = {k: t + change.to(t.device) * u[k] for k, t in total.items()}
        return scale(total, -1 / (2 * self.radius * self.samples))

    def _along(self, response: Response, direction: Tensors, u: Tensors) -> Tensor:
        """The slope of F along D c at displaced arguments: < dF/dw(w; r + radius u) , D c >."""
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            own = {k: t if again and t.requires_grad else t.detach().requires_grad_()
                   for k, t in response.value.items()}  # fmt: skip
            moved = {k: response.arguments[k] + self.radius * t for k, t in u.items()}
            if not again:
                moved = {k: t.detach() for k, t in moved.items()}
            loss = response.objective(own, 0, moved)
            found = gradient(loss, own, response.name, create_graph=again)
        return dot(direction, found) if found.keys() & direction.keys() else loss.new_zeros(())


def _normal(response: Response, key: Key, generator: torch.Generator) -> Tensor:
    """Drawn on the CPU, so that a seed means the same on every device; and for all ranks."""
    like = response.arguments[key]
    start, rows = response.rows(key) or (0, None)
    shape = like.shape if rows is None else (rows, *like.shape[1:])
    drawn = torch.randn(shape, generator=generator, dtype=like.dtype)
    return (drawn if rows is None else drawn.narrow(0, start, like.shape[0])).to(like.device)

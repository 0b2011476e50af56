"""Normalisations of which torch's higher derivatives are wrong have the right ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from compare import exact, near, rounding
from small import F64
from torch import Tensor

from mlopt._evaluation.written_out import WrittenOut


def made(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def directed(dim: int, *shape: int) -> Callable[[Tensor], Tensor]:
    """Weight norm of the vectors of a dimension, or of all as one."""
    lengths = [1] * len(shape)
    if dim >= 0:
        lengths[dim] = shape[dim]
    g = made(2, *lengths) if dim >= 0 else made(2)
    return lambda x: torch._weight_norm(x.view(shape), g * x.sum().cos(), dim)


def normal(*shape: int) -> Callable[[Tensor], Tensor]:
    w, b = made(3, *shape), made(4, *shape)
    return lambda x: torch.nn.functional.layer_norm(x.view(-1, *shape), shape, w, b)


CASES = {
    "rows": directed(0, 4, 3), "columns": directed(1, 4, 3), "all": directed(-1, 4, 3),
    "filters": directed(0, 3, 2, 2), "last": directed(2, 2, 3, 2), "middle": directed(1, 2, 3, 2),
    "layer": normal(4), "layer of two": normal(2, 3),
    "layer, plain": lambda x: torch.layer_norm(x.view(3, 4), [4], None, None, 1e-3),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_first_second_and_third_derivatives(name: str) -> None:
    """Each is the difference of those before it, of which the first are torch's own."""
    function, radius = CASES[name], 1e-5
    along = [made(5 + i, 12) for i in range(2)]

    def first(x: Tensor) -> Tensor:
        value = (function(x).flatten() * made(9, 12)).sin().sum()
        return torch.autograd.grad(value, x, create_graph=True)[0]

    def second(x: Tensor) -> Tensor:
        return torch.autograd.grad(first(x), x, along[0], create_graph=True)[0]

    def difference(of: Callable[[Tensor], Tensor], direction: Tensor) -> Tensor:
        sides = [of((x + h * direction).detach().requires_grad_()) for h in (radius, -radius)]
        return (sides[0] - sides[1]).detach() / (2 * radius)

    x = made(1, 12).requires_grad_()
    why = "rounding over the radius, and its square times derivatives in the hundreds"
    with WrittenOut():
        value = function(x)
        twice = second(x)
        thrice = torch.autograd.grad(twice, x, along[1])[0]
        near(thrice, difference(second, along[1]), 1e-7, why=why)
        written = first(x)
    exact(function(x), value, rounding(100))
    exact(first(x), written, rounding(200, condition=100))
    near(twice, difference(first, along[0]), 1e-7, why=why)

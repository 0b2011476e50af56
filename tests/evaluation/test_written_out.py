"""Normalisations of which torch's higher derivatives are wrong have the right ones."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from compare import exact, near, rounding
from small import F64
from torch import Tensor, nn
from torch.nn import functional as F

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
    return lambda x: F.layer_norm(x.view(-1, *shape), shape, w, b)


CASES = {
    "rows": directed(0, 4, 3), "columns": directed(1, 4, 3), "all": directed(-1, 4, 3),
    "filters": directed(0, 3, 2, 2), "last": directed(2, 2, 3, 2), "middle": directed(1, 2, 3, 2),
    "layer": normal(4), "layer of two": normal(2, 3),
    "batch": lambda x: F.batch_norm(x.view(4, 3), None, None, made(3, 3), made(4, 3), True),
    "batch of sequences": lambda x: F.batch_norm(x.view(2, 3, 2), None, None, training=True),
    "batch, plain": lambda x: torch.batch_norm(
        x.view(4, 3), None, None, None, None, True, 0.1, 1e-3, False
    ),
    "batch, in evaluation": lambda x: F.batch_norm(x.view(4, 3), made(3, 3), made(4, 3) ** 2),
    "instance": lambda x: F.instance_norm(x.view(2, 2, 3), weight=made(3, 2), bias=made(4, 2)),
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


NORMS = {
    "batch": lambda: nn.BatchNorm2d(3),
    "cumulative": lambda: nn.BatchNorm2d(3, momentum=None, affine=False),
    "without statistics": lambda: nn.BatchNorm2d(3, track_running_stats=False),
    "instance": lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
}


@pytest.mark.parametrize("name", NORMS)
def test_running_statistics_are_those_of_torch(name: str) -> None:
    """Training, training, evaluation: values and buffers."""
    written, own = (NORMS[name]().to(F64) for _ in range(2))
    for training in (True, True, False):
        x = made(1, 4, 3, 2, 2)
        with WrittenOut():
            found = written.train(training)(x)
        exact(found, own.train(training)(x), rounding(100))
        for buffer, expected in zip(written.buffers(), own.buffers(), strict=True):
            exact(buffer, expected, rounding(100))


def test_one_value_has_no_variance() -> None:
    """The same error as torch's own."""
    for norm, x in (
        (nn.BatchNorm1d(3), torch.ones(1, 3)),
        (nn.InstanceNorm1d(3), torch.ones(2, 3, 1)),
    ):
        for around in (WrittenOut(), nullcontext()):
            with pytest.raises(ValueError, match="Expected more than 1"), around:
                norm(x)

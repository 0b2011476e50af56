"""Who keeps another name for a variable's memory, and reads it, reads the variable."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small import bilevel, mlp
from torch import Tensor, nn

import mlopt

KEPT: dict[str, Callable[[nn.Linear], Tensor]] = {
    "data": lambda layer: layer.weight.data,
    "detach": lambda layer: layer.weight.detach(),
    "transposed": lambda layer: layer.weight.data.t(),
    "a view": lambda layer: layer.weight.data.view(-1)[:2],
}


@pytest.mark.parametrize("name", KEPT)
def test_it_is_named(name: str) -> None:
    net = mlp()
    kept = KEPT[name](net[0])
    W = mlopt.Variable(net, "w")
    A = mlopt.Variable(nn.Parameter(torch.zeros(3, dtype=torch.float64)), "a")

    @mlopt.problem(over=W, optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    def low(w: nn.Module) -> Tensor:
        return w(torch.ones(1, 3, dtype=torch.float64)).square().sum()

    @mlopt.problem(over=A, optimizer=torch.optim.SGD([A.tensor], lr=0.1))
    def up(a: Tensor) -> Tensor:
        return (a**2).sum() + kept.sum() * a.sum()

    with pytest.raises(mlopt.GraphError, match="up reads w without being given it"):
        mlopt.Engine([low, up]).step()


def test_a_copy_may_be_kept() -> None:
    made = bilevel(mlp())
    made.W.value.first = made.W.value[0].weight.detach().clone()
    made.engine().step()

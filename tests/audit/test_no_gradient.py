"""An audit of a hypergradient that is empty, for nothing reaches the variable: it says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small import F64, sgd
from torch import Tensor, nn

import mlopt

METHODS = [mlopt.OneStep(), mlopt.OneStep(product=mlopt.Central()), mlopt.Unrolled(2),
           mlopt.Implicit(), mlopt.Sama()]  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize(
    "read", [lambda r: r.detach(), lambda r: r[0].item()], ids=["detach", "item"]
)
def test_what_is_read_without_gradient_alone(
    read: Callable[[Tensor], Any], dtype: torch.dtype, method: Any
) -> None:
    W, R = (mlopt.Variable(nn.Parameter(torch.ones(3, dtype=dtype)), n) for n in "wr")

    @mlopt.problem(over=W, given=[R], optimizer=sgd(W, 0.1))
    def lower(w, r):
        return ((w - 1.5) ** 2 * read(r)).sum() + (w**4).sum()

    @mlopt.problem(over=R, given=[W], optimizer=sgd(R, 0.1))
    def upper(r, w):
        return ((w - 0.3) ** 2).sum()

    found = mlopt.audit(mlopt.Engine([lower, upper], hypergrad=method))
    assert [(c.kind, c.where) for c in found.causes] == [("detached", "lower")]

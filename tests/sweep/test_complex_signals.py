"""A signal of complex numbers carries cotangents, as one of pairs of real numbers does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import exact
from oracles import sweep_rounding
from small import F64, sgd
from torch import Tensor, nn

import mlopt


def hypergradient(method: Any, pairs: bool) -> Tensor:
    W, A = (mlopt.Variable(nn.Parameter(torch.tensor(v, dtype=F64)), n)
            for n, v in (("w", [0.3, 0.7]), ("a", [0.5, -0.2])))  # fmt: skip

    def whole(z: Tensor) -> Tensor:
        return torch.view_as_complex(z) if pairs else z

    @mlopt.signal(given=[A])
    def z(a):
        made = torch.complex(a.sin(), 2 * a.cos())
        return torch.view_as_real(made) if pairs else made

    @mlopt.problem(over=W, given=[z], optimizer=sgd(W), hypergrad=method)
    def low(w, z):
        return ((w * whole(z) - 1).abs() ** 2).sum()

    @mlopt.problem(over=A, given=[W, z], optimizer=sgd(A))
    def up(a, w, z):
        return (w**3).sum() + (whole(z) ** 2).imag.sum()

    return mlopt.Engine([z, low, up]).hypergradient(up)[A][""]


@pytest.mark.parametrize(
    "method", [mlopt.OneStep(), mlopt.Unrolled(2), mlopt.Implicit(mlopt.Dense())], ids=repr
)
def test_complex_signals(method: Any) -> None:
    exact(hypergradient(method, False), hypergradient(method, True), sweep_rounding(2))

"""Parameters told apart: by attributes right in every evaluation, by class refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import exact, rounding
from small import F64, sgd
from torch import Tensor, nn

import mlopt
from mlopt import GraphError

METHODS = {
    "one step": mlopt.OneStep(),
    "central": mlopt.OneStep(product=mlopt.Central()),
    "unrolled": mlopt.Unrolled(2),
    "implicit": mlopt.Implicit(mlopt.Dense(), damping=0.1),
    "sama": mlopt.Sama(),
}
X = torch.linspace(-1, 1, 8, dtype=F64).view(4, 2)


def by_attribute(net: Any) -> Tensor:
    return sum((p**2).sum() for p in net.parameters() if not getattr(p, "no_decay", False))


def by_name(net: Any) -> Tensor:
    return sum((p**2).sum() for n, p in net.named_parameters() if "bias" not in n)


def by_class(net: Any) -> Tensor:
    return sum((p**2).sum() for p in net.parameters() if isinstance(p, nn.Parameter))


def hypergradient(decay: Any, method: Any) -> Tensor:
    net = nn.Linear(2, 1, dtype=F64)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.5, -1.0]]))
        net.bias.fill_(3.0)
    W, R = mlopt.Variable(net, "w"), mlopt.Variable(nn.Parameter(torch.zeros((), dtype=F64)), "r")

    @mlopt.problem(over=W, given=[R], optimizer=sgd(W), hypergrad=method)
    def lower(w: Any, r: Tensor) -> Tensor:
        return (w(X) ** 2).mean() + r.exp() * decay(w)

    @mlopt.problem(over=R, given=[W], optimizer=sgd(R))
    def upper(r: Tensor, w: Any) -> Tensor:
        return ((w(X) - 1) ** 2).mean() + decay(w)

    engine = mlopt.Engine([lower, upper])
    net.bias.no_decay = True  # type: ignore[attr-defined]
    return engine.hypergradient(upper)[R][""]


@pytest.mark.parametrize("method", METHODS)
def test_attributes_come_along(method: str) -> None:
    expected = hypergradient(by_name, METHODS[method])
    exact(hypergradient(by_attribute, METHODS[method]), expected, rounding(1000))


@pytest.mark.parametrize("method", METHODS)
def test_classes_are_refused(method: str) -> None:
    with pytest.raises(GraphError, match="where nn.Parameters stand in its variables"):
        hypergradient(by_class, METHODS[method])


def test_attributes_of_a_lone_tensor() -> None:
    w, r = (nn.Parameter(torch.tensor(v, dtype=F64)) for v in ([1.0, 2.0], [0.5, -0.5]))
    r.scale = 10.0  # type: ignore[attr-defined]
    W, R = mlopt.Variable(w, "w"), mlopt.Variable(r, "r")

    @mlopt.problem(over=W, given=[R], optimizer=sgd(W), hypergrad=mlopt.OneStep())
    def lower(w: Tensor, r: Any) -> Tensor:
        return ((w - r * r.scale) ** 2).sum()

    @mlopt.problem(over=R, given=[W], optimizer=sgd(R))
    def upper(r: Tensor, w: Tensor) -> Tensor:
        return (w**2).sum() + 0 * r.sum()

    # w' = w - 0.2 (w - 10 r), and d |w'|^2 / dr = 2 w' 2.
    moved = w.detach() - 0.2 * (w.detach() - 10 * r.detach())
    found = mlopt.Engine([lower, upper]).hypergradient(upper)[R][""]
    exact(found, 4 * moved, rounding(20))

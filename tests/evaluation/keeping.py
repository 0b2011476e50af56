"""Layers that keep something, and engines of two levels over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from small import F64, seeded, sgd
from torch import Tensor, nn

import mlopt

X = torch.linspace(-1.0, 1.5, 24, dtype=F64).reshape(8, 3)
Y = X.sum(1, keepdim=True).sin()


class Layer(nn.Linear):
    """A layer that does something before its own work, or after it."""

    def __init__(self, before: Any = None, after: Any = None, **held: Any) -> None:
        super().__init__(3, 1)
        self.before, self.after = before, after
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        if self.before is not None:
            x = self.before(self, x)
        out = super().forward(x)
        return out if self.after is None else self.after(self, x, out)


def fit(out: Tensor, r: Tensor) -> Tensor:
    return (r.exp() * (out - Y) ** 2).mean()


def plain(w: Any, r: Tensor) -> Tensor:
    return fit(w(X), r)


def engine_of(
    net: nn.Module | None = None,
    low: Callable[..., Any] = plain,
    up: Callable[..., Any] | None = None,
    signal: Callable[..., Any] | None = None,
    hypergrad: Any = None,
) -> mlopt.Engine:
    """Two levels over a layer and a number; the lower objective may be of a signal besides."""
    W = mlopt.Variable((net or seeded(1, Layer)).double(), "w")
    R = mlopt.Variable(nn.Parameter(torch.zeros((), dtype=F64)), "r")
    lower = mlopt.problem(over=W, given=[R], optimizer=sgd(W), name="low")(low)
    heard = [mlopt.signal(given=[W], name="sig")(signal)] if signal else []
    upper = mlopt.problem(over=R, given=[W, *heard], optimizer=sgd(R), name="up")(
        up or (lambda r, w, *s: (w(X) ** 2).mean() + sum(x.sum() for x in s))
    )
    return mlopt.Engine([lower, *heard, upper], hypergrad=hypergrad or mlopt.OneStep(lr=0.3))


def layer(then: Callable[..., Any], **held: Any) -> mlopt.Engine:
    """`then` sees the layer, its input and its output; what it returns takes the output's place."""

    def after(own: Layer, x: Tensor, out: Tensor) -> Tensor:
        new = then(own, x, out)
        return new if isinstance(new, Tensor) else out

    return engine_of(seeded(1, lambda: Layer(None, after, **held)))


def put(own: Any, **values: Any) -> None:
    for name, value in values.items():
        setattr(own, name, value)

"""A graph of two levels whose functions are compiled, for the tests of `Engine(compile=...)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from compare import rounding
from small import F64, batches, seeded
from torch import Tensor, nn

import mlopt
from mlopt import (
    CG,
    Central,
    Exact,
    Frozen,
    GaussNewton,
    Implicit,
    OneSided,
    OneStep,
    Sama,
    Unrolled,
    ZerothOrder,
)

CENTRAL = OneStep(product=Central())
AOT = {"backend": "aot_eager"}
METHODS = {
    "frozen": Frozen(),
    "exact": OneStep(product=Exact()),
    "central": CENTRAL,
    "one_sided": OneStep(product=OneSided()),
    "implicit_exact": Implicit(CG(40), damping=30.0),
    "implicit_central": Implicit(CG(40), Central(), damping=30.0),
    "gauss_newton": Implicit(CG(40), Central(), GaussNewton(), damping=30.0),
    "sama": Sama(),
    "unrolled": Unrolled(2),
    "zeroth_order": ZerothOrder(OneStep(lr=0.1), samples=2),
}
# Those whose lower problem is never compiled: its gradient is always differentiated again.
PLAIN = {"exact", "implicit_exact", "unrolled"}


class Net(nn.Module):
    """With buffers that are written and masks that are drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(3, 5), nn.BatchNorm1d(5)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(torch.tanh(self.norm(self.first(x)))))


class Graph:
    """The lower level fits under penalties exp(a); a signal of it, and a judge, are above."""

    def __init__(self, method: Any = CENTRAL, steer: Callable[[], float] = lambda: 1.0,
                 sizes: tuple[int, ...] = (6, 6), **options: Any) -> None:  # fmt: skip
        self.net, self.a = seeded(1, Net), nn.Parameter(torch.zeros(5, dtype=F64))
        self.W, self.A = mlopt.Variable(self.net, "w"), mlopt.Variable(self.a, "a")
        loader = [b for i, size in enumerate(sizes) for b in batches(1, size, seed=i)]
        data = mlopt.Stream(loader)

        # torch 2.6 breaks the graph at a context variable
        marks = isinstance(getattr(method, "curvature", None), GaussNewton)
        mark = mlopt.outputs if marks else lambda z: z

        @mlopt.problem(over=self.W, given=[self.A], data=data, hypergrad=method,
                       optimizer=torch.optim.SGD(self.W.parameters(), 0.1, 0.9))  # fmt: skip
        def train(w, a, batch):
            x, y = batch
            penalty = (a.exp() * w.first.weight.square().sum(1)).mean()
            return steer() * (mark(w(x)) - y).square().mean() + penalty

        @mlopt.signal(given=[self.W], data=data)
        def errors(w, batch):
            x, y = batch
            return (w(x) - y).square()

        @mlopt.problem(over=self.A, given=[errors, self.W], data=data,
                       optimizer=torch.optim.SGD(self.A.parameters(), 0.1))  # fmt: skip
        def valid(a, errors, w, batch):
            return errors.mean() + w.last.weight.square().mean() + 0.01 * (a - 1).square().mean()

        self.engine = mlopt.Engine([train, errors, valid], **options)
        self.upper = valid

    def state(self) -> Tensor:
        return torch.cat([t.detach().flatten().to(F64) for t in
                          [self.a, *self.net.state_dict().values()]])  # fmt: skip


def run(graph: Graph, steps: int, before: Callable[[int], None] = lambda step: None) -> Tensor:
    for step in range(steps):
        before(step)
        graph.engine.step()
    return graph.state()


#: At most six steps of networks of 40 operations, with the derivative of a look-ahead.
ROUNDING = rounding(6 * 4 * 40, condition=4)

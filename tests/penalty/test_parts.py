"""`Engine(parts=m)` on what penalty methods make of two levels: the joined batch's numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compare import exact
from small import F64, seeded
from torch import Tensor, nn

import mlopt
from mlopt.penalty import bome, f2sa

#: Of the parts law; see tests/engine/test_parts.py.
LAW = 1e-10
METHODS: dict[str, Callable[..., mlopt.Penalty]] = {
    "f2sa": lambda lower, upper: f2sa(lower=lower, upper=upper, weight=2.0),
    "bome": lambda lower, upper: bome(lower=lower, upper=upper, inner_steps=3, inner_lr=0.01),
}


def masked(w: Any, a: Tensor, batch: Any) -> Tensor:
    x, y = batch
    return ((w(x) * a.exp()).square().sum(1) * (y > 0)).sum() / (y > 0).sum()


def mean(w: Any, a: Tensor, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(w(batch[0]) * a.exp(), batch[1])


def coupled(w: Any, a: Tensor, batch: Any) -> Tensor:
    return mean(w, a, batch) + w(batch[0]).mean(0).square().sum()


def total(w: Any, a: Tensor, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(w(batch[0]) * a.exp(), batch[1], reduction="sum")


#: (lower objective, its options, the options of the upper one, samples of each)
CASES: dict[str, Any] = {
    "means": (mean, {}, {}, (6, 6)),
    "sums": (total, {"combine": "sum"}, {"combine": "sum"}, (7, 5)),
    "a sum and a mean": (total, {"combine": "sum"}, {}, (6, 6)),
    "one that couples samples": (coupled, {"split": False}, {"split": 0}, (6, 6)),
    "a mean of those that count": (masked, {"count": lambda b: (b[1] > 0).sum()}, {}, (6, 6)),
    "a split of the user's": (
        mean, {"split": lambda b, m: [(b[0][:1], b[1][:1]), (b[0][1:], b[1][1:])]}, {}, (7, 5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_parts_law_of_penalty_methods(method: str, case: str) -> None:
    fn, low, high, sizes = CASES[case]

    def made(parts: int) -> list[Any]:
        W = mlopt.Variable(seeded(1, lambda: nn.Linear(3, 3)), "w")
        A = mlopt.Variable(torch.tensor([0.3, -0.2, 0.1], dtype=F64).requires_grad_(), "a")
        generator = torch.Generator().manual_seed(0)
        batches = [
            [(torch.randn(n, 3, generator=generator, dtype=F64), torch.arange(n) % 3)]
            for n in sizes
        ]

        @mlopt.problem(
            over=W,
            given=[A],
            data=batches[0],
            optimizer=torch.optim.SGD(W.parameters(), lr=0.02),
            **low,
        )
        def lower(w, a, batch):
            return fn(w, a, batch)

        @mlopt.problem(
            over=A,
            given=[W],
            data=batches[1],
            optimizer=torch.optim.SGD(A.parameters(), lr=0.02),
            **high,
        )
        def upper(a, w, batch):
            each = nn.functional.cross_entropy(w(batch[0]), batch[1], reduction="none")
            each = each + 0.1 * (a**2).sum()
            return each.sum() if high.get("combine") == "sum" else each.mean()

        engine = mlopt.Engine(METHODS[method](lower, upper).nodes, parts=parts)
        steps = [engine.step() for _ in range(2)]
        return [steps, *(p.detach() for v in engine.graph.variables for p in v.parameters())]

    exact(made(3), made(1), LAW)

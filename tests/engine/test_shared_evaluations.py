"""On nested graphs what a reader evaluates where it stands serves the lower problem's update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import exact, rounding
from torch import Tensor, nn

import mlopt
from mlopt import Central, Implicit, OneSided, OneStep, ZerothOrder

F64 = torch.float64


def sgd(v: mlopt.Variable) -> torch.optim.Optimizer:
    return torch.optim.SGD(v.parameters(), lr=0.1)


def three_levels(method: Any) -> tuple[list[Any], list[str]]:
    """A bottom, a middle that steers it, a top that reads both; and who is evaluated."""
    W, M, A = (mlopt.Variable(nn.Parameter(torch.full((3,), x, dtype=F64)), n)
               for n, x in (("w", 0.5), ("m", -0.3), ("a", 0.2)))  # fmt: skip
    seen: list[str] = []

    @mlopt.problem(over=W, given=[M, A], optimizer=sgd(W), hypergrad=method)
    def low(w, m, a):
        seen.append("low")
        return ((w - m.sin()) ** 2 * a.exp()).sum() + (w**4).sum() / 4

    @mlopt.signal(given=[W])
    def passed(w):
        seen.append("passed")
        return w.tanh()

    @mlopt.problem(over=M, given=[passed, A], optimizer=sgd(M), hypergrad=method)
    def middle(m, passed, a):
        seen.append("middle")
        return ((passed + m - a) ** 2).sum() + (m**2).sum()

    @mlopt.problem(over=A, given=[W, M], optimizer=sgd(A))
    def top(a, w, m):
        seen.append("top")
        return ((w * m - 1) ** 2).sum() + (a**2).sum()

    return [low, passed, middle, top], seen


COUNTS = [
    (OneStep(), 5),
    (OneStep(product=OneSided()), 11),
    (OneStep(product=Central()), 19),
    (Implicit(), 7),
]
IDS = ["exact", "one-sided", "central", "implicit"]


@pytest.mark.parametrize(("method", "count"), COUNTS, ids=IDS)
def test_nested_levels_share_what_they_evaluate(method: Any, count: int) -> None:
    nodes, seen = three_levels(method)
    engine = mlopt.Engine(nodes)
    assert engine.plan().evaluations == count
    engine.step()
    seen.clear()
    engine.step()
    assert len(seen) == count


@pytest.mark.parametrize(
    "method",
    [*(m for m, _ in COUNTS), ZerothOrder(OneStep(), samples=2)],
    ids=[*IDS, "zeroth order"],
)
def test_shared_updates_are_those_of_each_problem_alone(method: Any) -> None:
    """A problem's hypergradient, asked alone, evaluates everything for itself."""
    nodes, _ = three_levels(method)
    engine = mlopt.Engine(nodes)
    problems = [n for n in nodes if isinstance(n, mlopt.Problem)]
    alone = {p: engine.hypergradient(p)[p.over[0]][""] for p in problems}
    before = {p: p.over[0].tensor.detach().clone() for p in problems}
    engine.step()
    for p in problems:
        moved: Tensor = before[p] - p.over[0].tensor.detach()
        exact(moved, 0.1 * alone[p], rounding(40, condition=10), what=p.name)


def test_what_displaces_all_that_is_asked_for_together_serves_nobody_else() -> None:
    """Four levels: the third one's update is taken at the second one's, which the top displaces."""
    names = ("w", "m", "n", "a")
    over = [
        mlopt.Variable(nn.Parameter(torch.full((3,), 0.1 * k, dtype=F64)), n)
        for k, n in enumerate(names)
    ]
    zeroth = ZerothOrder(OneStep(), samples=2)
    methods = [zeroth, OneStep(), OneStep(), None]

    def level(k: int) -> mlopt.Problem:
        given = [v for v in over if v is not over[k]]

        def objective(x: Tensor, *others: Tensor) -> Tensor:
            pairs = enumerate(others, start=2)
            return sum(((x - c * y.sin()) ** 2).sum() for c, y in pairs) + (x**4).sum()

        options = {"optimizer": sgd(over[k]), "hypergrad": methods[k], "name": names[k]}
        return mlopt.problem(over=over[k], given=given, **options)(objective)

    problems = [level(k) for k in range(4)]
    engine = mlopt.Engine(problems)
    alone = {p: engine.hypergradient(p)[p.over[0]][""] for p in problems}
    before = {p: p.over[0].tensor.detach().clone() for p in problems}
    engine.step()
    for p in problems:
        moved = before[p] - p.over[0].tensor.detach()
        # its slopes are differences, in which rounding is divided by the radius
        exact(moved, 0.1 * alone[p], rounding(40, condition=10) / zeroth.radius, what=p.name)


def test_a_problem_beside_a_nested_one_reads_what_is_known() -> None:
    """A reader that anticipates nothing needs no evaluation but its own."""
    nodes, seen = three_levels(OneStep())
    low, passed = nodes[0], nodes[1]
    B = mlopt.Variable(nn.Parameter(torch.ones(3, dtype=F64)), "b")

    @mlopt.problem(over=B, given=[low.over[0], passed], optimizer=sgd(B))
    def beside(b, w, passed):
        seen.append("beside")
        return ((b - w) ** 2 + passed**2).sum()

    engine = mlopt.Engine([low, passed, beside, *nodes[2:]])
    plan = engine.plan()
    engine.step()
    seen.clear()
    engine.step()
    assert seen.count("beside") == 1
    assert len(seen) == plan.evaluations == 6

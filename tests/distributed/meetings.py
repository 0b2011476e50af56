"""Learners on ranks of their own that wait for one another in the middle of their objectives."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from distributed.agreements import said
from distributed.here import Engine, here
from small import F64
from torch import nn

import mlopt

#: So long a learner waits for the others, which only come if they compute at the same time.
_PATIENCE = timedelta(seconds=60)


def learners_meet(method: Any, run: int) -> list[int]:
    """Two levels of learners, each on its rank: none goes on before all have come as far.

    Args:
        method: of the learners.
        run: another number for each call.

    Returns:
        How often each objective was called on this rank in a step.
    """
    group, meeting, calls = range(dist.get_world_size()), [False], Counter[str]()
    store = dist.distributed_c10d._get_default_store()

    def meet(level: str, k: int) -> None:
        if meeting[0]:
            calls[f"{level}{k}"] += 1
            keys = [f"meeting/{run}/{level}/{calls[f'{level}{k}']}/{j}" for j in group]
            store.set(keys[k], b"1")
            store.wait(keys, _PATIENCE)

    def variables(name: str, start: float) -> list[mlopt.Variable]:
        return [
            mlopt.Variable(
                nn.Parameter(torch.tensor(start + k, dtype=F64, device=here())), f"{name}{k}"
            )
            for k in group
        ]

    V, W, (A, *_) = variables("v", 0.1), variables("w", 0.2), variables("a", 0.3)

    def low(k: int) -> Any:
        @mlopt.problem(over=V[k], given=[A], name=f"low{k}", **_options(V[k], method))
        def low(v, a):
            meet("low", k)
            return (v - a).square() + (v * a).sin()

        return low

    def told(k: int) -> Any:
        @mlopt.signal(given=[V[k]], name=f"told{k}", combine="sum")
        def told(v):
            meet("told", k)
            return v.exp()

        return told

    lows, signals = [low(k) for k in group], [told(k) for k in group]

    def high(k: int) -> Any:
        @mlopt.problem(
            over=W[k], given=[[s for j, s in enumerate(signals) if j != k]], name=f"high{k}",
            **_options(W[k], method),
        )  # fmt: skip
        def high(w, told):
            meet("high", k)
            return (w - sum(told)).square() + w.cos()

        return high

    @mlopt.problem(over=A, given=[W], optimizer=torch.optim.SGD(A.parameters(), lr=0.1))
    def last(a, w):
        return sum(w).square() + a.square()

    nodes = [*lows, *signals, *(high(k) for k in group), last]
    engine = Engine(nodes, places={v: k for k in group for v in (V[k], W[k])})
    engine.step()
    meeting[0] = True
    engine.step()
    return [calls[f"{level}{k}"] for level in ("low", "told", "high") for k in group]


def _options(variable: mlopt.Variable, method: Any) -> dict[str, Any]:
    return {"optimizer": torch.optim.SGD(variable.parameters(), lr=0.1), "hypergrad": method}


class Within(mlopt.AbstractHypergradient):
    """A method of a user's, which solves systems by another one."""

    inner = mlopt.Implicit(mlopt.CG())
    moves, responds, at_solution, cost = inner.moves, True, True, inner.cost

    def check(self, name: str, optimizer: Any) -> None:
        self.inner.check(name, optimizer)

    def solution(self, response: Any) -> Any:
        return self.inner.solution(response)

    def pullback(self, response: Any, cotangent: Any, wanted: Any) -> Any:
        return self.inner.pullback(response, cotangent, wanted)


def bent(places: Any, own: bool = False) -> str:
    """What is said of a level without a curvature that is finite.

    Args:
        places: of its variable.
        own: have a method of a user's.
    """
    W = mlopt.Variable(nn.Parameter(torch.zeros(2, dtype=F64, device=here())), "w")
    A = mlopt.Variable(nn.Parameter(torch.ones(2, dtype=F64, device=here())), "a")

    @mlopt.problem(over=W, given=[A], optimizer=torch.optim.SGD(W.parameters(), lr=0.1))
    def low(w, a):
        return (w.abs() ** 1.5).sum() + (a * w).sum()

    @mlopt.problem(over=A, given=[W], optimizer=torch.optim.SGD(A.parameters(), lr=0.1))
    def high(a, w):
        return ((w - 1) ** 2).sum() + (a**2).sum()

    method = Within() if own else Within.inner
    if places is None:
        return said(Engine([low, high], hypergrad=method, ranks=False).step)
    return said(Engine([low, high], hypergrad=method, places={W: places}).step)


def spoilt(kind: str, places: Any) -> tuple[str, list[float]]:
    """A level that is spoilt in the third step: what is said, and where its variables stand.

    Args:
        kind: "value" or "error".
        places: of the levels; None for one process.
    """
    W, V, A = (
        mlopt.Variable(nn.Parameter(torch.full((2,), start, dtype=F64, device=here())), name)
        for name, start in (("w", 0.1), ("v", 0.2), ("a", 0.3))
    )
    data, steps = mlopt.Stream([torch.ones(2, dtype=F64)]), [0]

    def level(variable: mlopt.Variable, name: str) -> Any:
        @mlopt.problem(
            over=variable, given=[A], data=data, name=name, **_options(variable, mlopt.OneStep())
        )
        def level(w, a, batch):
            if name == "second" and steps[0] == 2:
                if kind == "error":
                    raise ValueError("it cannot be computed")
                return (w * float("nan") + a).sum()
            return ((w - a) * batch).square().sum()

        return level

    @mlopt.problem(over=A, given=[W, V], optimizer=torch.optim.SGD(A.parameters(), lr=0.1))
    def high(a, w, v):
        return (w * v).sum() + a.square().sum()

    nodes = [level(W, "first"), level(V, "second"), high]
    at = None if places is None else dict(zip((W, V), places, strict=True))
    engine = Engine(nodes, places=at, ranks=None if places else False)

    def run() -> None:
        for step in range(4):
            steps[0] = step
            engine.step()

    return said(run), [x for v in (W, V, A) for x in v.tensor.tolist()]

"""Right calls of the core: methods, solvers, penalties, variables, the audit."""

from __future__ import annotations

from typing import Any

import torch
from arguments.example import Example, of
from torch import nn

import mlopt

__all__ = ["EXAMPLES", "engine", "levels", "sgd", "variable"]


def variable(name: str = "w") -> mlopt.Variable:
    return mlopt.Variable(nn.Parameter(torch.ones(2)), name)


def levels() -> tuple[mlopt.Problem, mlopt.Problem]:
    """A lower problem and the upper one that it reads."""
    w, a = variable("w"), variable("a")

    @mlopt.problem(over=w, given=[a], optimizer=torch.optim.SGD(w.parameters(), 0.1))
    def lower(w: Any, a: Any) -> Any:
        return ((w - a) ** 2).sum()

    @mlopt.problem(over=a, given=[w], optimizer=torch.optim.SGD(a.parameters(), 0.1))
    def upper(a: Any, w: Any) -> Any:
        return (a * w**2).sum()

    return lower, upper


def engine() -> mlopt.Engine:
    return mlopt.Engine(levels(), hypergrad=mlopt.OneStep())


def pair(**options: Any) -> dict[str, Any]:
    lower, upper = levels()
    return {"lower": lower, "upper": upper, **options}


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.ones(2))], 0.1)


def audited() -> mlopt.Audit:
    """Of an edge that agrees."""
    return mlopt.Audit((mlopt.Finding("edge", "w -> a", "OneStep()", "autograd", 0.0),))


EXAMPLES: dict[str, Example] = {
    "mlopt.CG": of(tol="0"),
    "mlopt.GMRES": of(tol="0"),
    "mlopt.Dense": of(),
    "mlopt.Neumann": of(steps="0"),
    "mlopt.Nystrom": of(seed="0, -1", wrong={"seed": (2**64,)}),
    "mlopt.Central": of(),
    "mlopt.OneSided": of(),
    "mlopt.Exact": of(),
    "mlopt.Frozen": of(),
    "mlopt.GaussNewton": of(),
    "mlopt.Hessian": of(),
    "mlopt.Implicit": of(damping="0"),
    "mlopt.OneStep": of(),
    "mlopt.Sama": of(),
    "mlopt.StopGradient": of(lambda: {"method": mlopt.OneStep()}),
    "mlopt.Unrolled": of(lambda: {"steps": 2}),
    "mlopt.ZerothOrder": of(),
    "mlopt.Variable": of(
        lambda: {"value": nn.Parameter(torch.ones(2)), "name": "w"}, name="unknown"
    ),
    "mlopt.Variable.named_parameters": of(on=variable),
    "mlopt.Variable.parameters": of(on=variable),
    "mlopt.Variable.__call__": of(
        lambda: {"args": (torch.ones(1),)},
        on=lambda: mlopt.Variable(nn.Linear(1, 1), "w"),
        args="anything",
        kwargs="anything",
    ),
    "mlopt.stop": of(lambda: {"source": variable()}, wrong={"source": (None, 3, "w", sgd())}),
    "mlopt.outputs": of(
        lambda: {"z": torch.ones(2)}, z="scalar, none inside, shape, whole, complex"
    ),
    "mlopt.audit": of(
        lambda: {"engine": engine(), "directions": 1},
        seed="-1, 0",
        dense_limit="0",
        wrong={"seed": (2**64,)},
    ),
    "mlopt.Audit.check": of(on=audited, tolerance="0, inf"),
    "mlopt.Growing": of(lambda: {"start": 1.0, "rate": 0.1}, rate="0"),
    "mlopt.f2sa": of(lambda: pair(weight=2.0)),
    "mlopt.bome": of(lambda: pair(inner_steps=2, inner_lr=0.1)),
    "mlopt.optim.rule_of": of(
        lambda: {"optimizer": sgd(), "name": "w"},
        wrong={"optimizer": (None, 3, sgd, torch.optim.LBFGS([nn.Parameter(torch.ones(2))]))},
        name="none, 3, empty, unknown",  # a label in a message
    ),
    "mlopt.optim.update_of": of(
        lambda: {"optimizer": sgd(), "name": "w"},
        wrong={"optimizer": (None, 3, sgd, torch.optim.LBFGS([nn.Parameter(torch.ones(2))]))},
        name="none, 3, empty, unknown",
    ),
    "mlopt.distributed.split": of(
        lambda: {"loader": [torch.ones(4)], "rank": 0, "world": 2},
        rank="0",
        wrong={
            "loader": (None, {}, "ab", [], iter([1]), torch.ones(4), [[1]]),
            "rank": (2, None),
            "world": (None,),
        },
    ),
    "mlopt.distributed.sync_batch_norm": of(
        lambda: {"module": nn.Sequential(nn.BatchNorm1d(2))},
        wrong={"module": (nn.SyncBatchNorm(2), nn.LazyBatchNorm1d())},
    ),
    "mlopt.games.Alternating": of(
        lambda: {"turns": ((levels()[0], 1),)},
        wrong={"turns": ((levels()[0],), ((levels()[0], 0),), ((levels()[0], True),))},
    ),
    "mlopt.games.Extragradient": of(),
    "mlopt.games.Joint": of(),
    "mlopt.games.Simultaneous": of(),
}

"""Small graphs, and snapshots of everything that a step may change, for the tests of the engine."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import mlopt

F64 = torch.float64


def seeded(seed: int, make: Callable[[], Any]) -> Any:
    """What `make` returns under a seed, in float64 if it is a module; no global generator moves."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed also formats a stack trace for each kind of device that is not there
        torch.default_generator.manual_seed(seed)
        made = make()
    return made.double() if isinstance(made, nn.Module) else made


def batches(count: int, size: int = 6, features: int = 3, seed: int = 0) -> list:
    """A list of (x, y), which is a loader too."""
    g = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, features, dtype=F64, generator=g),
            torch.randn(size, 1, dtype=F64, generator=g),
        )
        for _ in range(count)
    ]


def mlp(seed: int = 1, features: int = 3) -> nn.Module:
    return seeded(seed, lambda: nn.Sequential(nn.Linear(features, 4), nn.Tanh(), nn.Linear(4, 1)))


@dataclass
class Bilevel:
    """The lower level weighs its features by exp(a); the upper level chooses a on other data."""

    W: mlopt.Variable
    A: mlopt.Variable
    lower: mlopt.Problem
    upper: mlopt.Problem
    train: Any
    valid: Any

    def engine(self, **options: Any) -> mlopt.Engine:
        return mlopt.Engine([self.lower, self.upper], **options)


def sgd(variable: mlopt.Variable, lr: float = 0.1, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(variable.parameters(), lr=lr, **options)


def bilevel(
    net: nn.Module | None = None,
    *,
    optimizer: Callable[[mlopt.Variable], Any] = sgd,
    upper_optimizer: Callable[[mlopt.Variable], Any] | None = sgd,
    hypergrad: Any = None,
    train: Any = None,
    valid: Any = None,
    lower: dict[str, Any] | None = None,
    upper: dict[str, Any] | None = None,
    seen: list | None = None,
) -> Bilevel:
    """Two levels; `seen` collects (name, batch) of every evaluation."""
    net = net or mlp()
    W = mlopt.Variable(net, "w")
    A = mlopt.Variable(nn.Parameter(torch.tensor([0.1, -0.2, 0.3], dtype=F64)), "a")
    train = batches(5, seed=1) if train is None else train
    valid = batches(5, seed=2) if valid is None else valid
    notes: list = [] if seen is None else seen

    @mlopt.problem(
        over=W,
        given=[A],
        data=train,
        optimizer=optimizer(W),
        hypergrad=hypergrad or mlopt.OneStep(product=mlopt.Central()),
        **(lower or {}),
    )
    def fit(w, a, batch):
        notes.append(("fit", batch))
        x, y = batch
        return mse_loss(w(x * a.exp()), y)

    @mlopt.problem(
        over=A,
        given=[W],
        data=valid,
        optimizer=None if upper_optimizer is None else upper_optimizer(A),
        **(upper or {}),
    )
    def tune(a, w, batch):
        notes.append(("tune", batch))
        x, y = batch
        return mse_loss(w(x), y) + 0.01 * a.square().sum()

    return Bilevel(W, A, fit, tune, train, valid)


def state_of(engine: mlopt.Engine, *more: nn.Module) -> dict[str, Any]:
    """Copies of all that a step may change: of every level, and of the process."""
    out: dict[str, Any] = {
        "rng": torch.get_rng_state(),
        "steps": engine.steps,
        "epoch": engine.epoch,
    }
    for v in engine.graph.variables:
        values = v.value.state_dict() if isinstance(v.value, nn.Module) else {"": v.value}
        out[f"{v.name} values"] = values
        out[f"{v.name} grads"] = {k: p.grad for k, p in v.named_parameters().items()}
    for p in engine.graph.problems:
        if p.optimizer is not None:
            out[f"{p.name} optimizer"] = p.optimizer.state_dict()
        if p.scheduler is not None:
            scheduler = getattr(p.scheduler, "scheduler", p.scheduler)
            out[f"{p.name} scheduler"] = {
                k: v for k, v in scheduler.state_dict().items() if not k.startswith("_")
            }
    for s in engine.graph.signals:
        if s.state is not None:
            out[f"{s.name} state"] = s.state.state_dict()
    for i, module in enumerate(more):
        out[f"module {i}"] = module.state_dict()
    return copy.deepcopy(
        {k: _detached(v) for k, v in out.items()},
    )


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {k: _detached(v) for k, v in value.items()}
    return value


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Where two nests differ, by bits; NaN equals NaN."""
    if type(a) is not type(b):
        return [f"{where}: {a!r} / {b!r}"]
    if isinstance(a, Tensor):
        same = a.dtype == b.dtype and torch.equal(torch.isnan(a), torch.isnan(b))
        same = same and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
        return [] if same else [f"{where}: {a} / {b}"]
    if isinstance(a, np.ndarray):
        return differences((str(a.dtype), a.tolist()), (str(b.dtype), b.tolist()), where)
    if isinstance(a, dict):
        if set(a) != set(b):
            return [f"{where}: keys {sorted(map(str, a))} / {sorted(map(str, b))}"]
        return [d for k in a for d in differences(a[k], b[k], f"{where}/{k}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{where}: lengths {len(a)} / {len(b)}"]
        return [
            d
            for i, (x, y) in enumerate(zip(a, b, strict=True))
            for d in differences(x, y, f"{where}/{i}")
        ]
    return [] if a == b else [f"{where}: {a!r} / {b!r}"]


def assert_same(a: Any, b: Any) -> None:
    found = differences(a, b)
    assert not found, "\n".join(found)

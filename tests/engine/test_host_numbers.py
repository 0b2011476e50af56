"""Nothing newly infinite is kept: numbers, arrays and learning rates that are no tensors, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from compare import exact, rounding
from engine.chaos import held
from small import assert_same
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

import mlopt
from mlopt import NonFiniteError, PerStep

INF, NAN = float("inf"), float("nan")


class Keeps(torch.optim.SGD):
    """Keeps what it is given, and at some steps writes into it."""

    def __init__(self, variable: mlopt.Variable, kept: Any, write: Callable[[Any, int], Any]):
        super().__init__(variable.parameters(), lr=0.1)
        self.kept, self.write, self.times = kept, write, [0]

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        self.times[0] += 1
        self.write(self, self.times[0])
        return loss


def engine_of(kept: Any, write: Callable[[Any, int], Any], **options: Any) -> mlopt.Engine:
    W = mlopt.Variable(nn.Parameter(torch.ones(2)), "w")
    fit = mlopt.problem(over=W, optimizer=Keeps(W, kept, write), name="fit")(lambda w: (w**2).sum())
    return mlopt.Engine([fit], **options)


class Meter:
    def __init__(self) -> None:
        self.value = 1.0


def item(key: Any, *values: float) -> Callable[[Any, int], None]:
    """Write one value a step into a container."""

    def write(optimizer: Keeps, time: int) -> None:
        optimizer.kept[key] = values[min(time, len(values)) - 1]

    return write


def rate(optimizer: Keeps, time: int) -> None:
    if time == 2:
        optimizer.param_groups[0]["lr"] = NAN


def betas(optimizer: Keeps, time: int) -> None:
    optimizer.kept["betas"] = (0.9, 0.999 if time == 1 else INF)


def own(optimizer: Keeps, time: int) -> None:
    optimizer.kept = 1.0 if time == 1 else NAN


def deep(optimizer: Keeps, time: int) -> None:
    optimizer.kept.value = 1.0 if time == 1 else INF


def late(optimizer: Keeps, time: int) -> None:
    if time == 2:
        optimizer.kept["late"] = NAN


SPOILT: dict[str, tuple[Any, Callable[[Any, int], None]]] = {
    "an attribute": (1.0, own),
    "a number in a dictionary": ({"best": 1.0}, item("best", 0.5, NAN)),
    "in a list": ([1.0, 2.0], item(1, 0.5, INF)),
    "in a tuple": ({"betas": (0.9, 0.99)}, betas),
    "of NumPy": ({"best": np.float32(1)}, item("best", np.float32(0.5), np.float32(INF))),
    "complex": ({"best": 1j}, item("best", 2j, complex(0, INF))),
    "an array": (np.ones(2), item(0, 0.5, NAN)),
    "an object's": (Meter(), deep),
    "a learning rate": (None, rate),
    "what comes as no number": ({}, late),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_number_that_is_newly_not_finite_is_refused(name: str) -> None:
    engine = engine_of(*SPOILT[name])
    engine.step()
    before = held(engine)
    optimizer = engine.graph.problems[0].optimizer
    kept = repr(getattr(optimizer.kept, "value", optimizer.kept)), optimizer.param_groups[0]["lr"]
    for _ in range(2):
        with pytest.raises(NonFiniteError, match="the update .* of fit is not finite"):
            engine.step()
        assert_same(before, held(engine))
        now = repr(getattr(optimizer.kept, "value", optimizer.kept))
        assert (now, optimizer.param_groups[0]["lr"]) == kept


LEGAL: dict[str, tuple[Any, Callable[[Any, int], None]]] = {
    "infinite from the start": ({"best": INF}, item("best", INF, 0.5, 0.4)),
    "reset to its start": ({"best": INF}, item("best", 0.5, INF, 0.4)),
    "begun when first needed": ({}, item("best", INF, 0.5, INF)),
    "no number before": ({"best": None}, item("best", INF, 0.5, INF)),
    "a mask": (np.array([-INF, 1.0]), item(1, 0.5, 0.6)),
}


@pytest.mark.parametrize("name", LEGAL)
def test_infinity_is_a_start(name: str) -> None:
    engine = engine_of(*LEGAL[name])
    for _ in range(4):
        engine.step()


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_learning_rate_that_a_scheduler_spoils(tensor: bool, per_step: bool, bad: float) -> None:
    W = mlopt.Variable(nn.Parameter(torch.ones(2)), "w")
    optimizer = torch.optim.SGD(W.parameters(), lr=torch.tensor(0.1) if tensor else 0.1)
    factor = [1.0]
    scheduler: Any = LambdaLR(optimizer, lambda epoch: factor[0])
    fit = mlopt.problem(
        over=W, data=[1.0], optimizer=optimizer, name="fit",
        scheduler=PerStep(scheduler) if per_step else scheduler,
    )(lambda w, x: x * (w**2).sum())  # fmt: skip
    engine = mlopt.Engine([fit], skip_nonfinite=1)
    engine.step()
    before = held(engine)
    factor[0] = bad
    engine.step()  # its batch is used, and nothing else has changed
    skipped = engine.skipped
    assert skipped is not None
    assert skipped.problem == "fit"
    assert "its scheduler writes" in str(skipped)
    assert_same({**before, "steps": 2, "epoch": 2, "clock": {}}, held(engine))
    with pytest.raises(NonFiniteError):
        engine.step()
    factor[0] = 0.5
    engine.step()
    # Roundings of 0.1, of its half and of the tensor that it is written into.
    exact(float(optimizer.param_groups[0]["lr"]), 0.05, rounding(3, dtype=torch.float32))


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_scheduler_that_has_spoilt_a_step_is_not_stepped_a_second_time(
    per_step: bool, bad: float
) -> None:
    W = mlopt.Variable(nn.Parameter(torch.ones(2)), "w")
    optimizer = torch.optim.SGD(W.parameters(), lr=0.1)
    scheduler: Any = LambdaLR(optimizer, lambda time: bad if time == 2 else 1.0)
    fit = mlopt.problem(
        over=W, data=[1.0, 1.0], optimizer=optimizer, name="fit",
        scheduler=PerStep(scheduler) if per_step else scheduler,
    )(lambda w, x: x * (w**2).sum())  # fmt: skip
    engine = mlopt.Engine([fit], skip_nonfinite=9)
    for _ in range(8):
        engine.step()
        assert optimizer.param_groups[0]["lr"] == 0.1
        assert scheduler.last_epoch < 2
    assert engine.epoch == 4

"""Law 7: a step that goes wrong leaves every level as it was, and can be taken again."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from grids import thinned
from small import F64, assert_same, batches, mlp, seeded, state_of
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim.lr_scheduler import LambdaLR, StepLR

import mlopt

LEVELS = ["lower", "middle", "upper"]
BAD = 2  # the step that goes wrong


class Poison(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.factor, None


class Fault:
    """What goes wrong, where, in which evaluation of that level in the step."""

    def __init__(self) -> None:
        self.level = ""
        self.kind = ""
        self.call = 0
        self.calls: dict[str, int] = {}
        self.batches: list[Any] = []

    def clear(self) -> None:
        self.calls.clear()
        self.batches.clear()

    def __call__(self, level: str, value: torch.Tensor, batch: Any) -> torch.Tensor:
        self.batches.append((level, batch))
        self.calls[level] = at = self.calls.get(level, 0) + 1
        if level != self.level or at <= self.call:
            return value
        if self.kind == "exception":
            raise RuntimeError("injected")
        if self.kind == "loss":
            return value + float("nan")
        if self.kind == "infinite loss":
            return value + float("inf")
        return Poison.apply(value, float(self.kind.split()[1]))


def network(seed: int) -> nn.Module:
    return seeded(
        seed,
        lambda: nn.Sequential(
            nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.1), nn.Linear(4, 1)
        ),
    )


class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6, 1, dtype=F64))


def levels(method: Any, **middle_options: Any):
    """lower (w given a), a signal with memory, middle (v given a and the signal), upper (a)."""
    fault = Fault()
    W, V = mlopt.Variable(network(1), "w"), mlopt.Variable(network(2), "v")
    A = mlopt.Variable(nn.Parameter(torch.tensor([0.1, -0.2, 0.3], dtype=F64)), "a")
    train, valid = batches(7, seed=1), batches(5, seed=2)
    momentum = torch.optim.SGD(W.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    adam = torch.optim.Adam(V.parameters(), lr=0.01)
    top = torch.optim.AdamW([A.value], lr=0.01, amsgrad=True)
    memory = Mean()

    @mlopt.problem(
        over=W,
        given=[A],
        data=train,
        optimizer=momentum,
        hypergrad=method,
        scheduler=mlopt.PerStep(LambdaLR(momentum, lambda t: 0.9**t)),
        clip=1.0,
    )
    def lower(w, a, batch):
        x, y = batch
        return fault("lower", mse_loss(w(x * a.exp()), y), batch)

    @mlopt.signal(given=[W], data=train, state=memory)
    def guess(w, batch):
        memory.mean.mul_(0.5).add_(w(batch[0]).detach())
        return w(batch[0]) + memory.mean

    @mlopt.problem(
        over=V,
        given=[A, guess],
        data=train,
        optimizer=adam,
        hypergrad=method,
        scheduler=StepLR(adam, 1),
        **middle_options,
    )
    def middle(v, a, guess, batch):
        return fault("middle", mse_loss(v(batch[0] * a), guess), batch)

    @mlopt.problem(over=A, given=[V], data=valid, optimizer=top)
    def upper(a, v, batch):
        x, y = batch
        return fault("upper", mse_loss(v(x), y) + a.square().sum(), batch)

    return fault, [lower, guess, middle, upper]


def engine_of(schedule: str, **options: Any):
    ahead = mlopt.OneStep(product=mlopt.Central())
    if schedule == "repeat":
        fault, nodes = levels(mlopt.Frozen(), repeat=3)
        return fault, mlopt.Engine(nodes, **options)
    first_order = schedule in ("Sequential", "Frozen")
    fault, nodes = levels(mlopt.Frozen() if first_order else ahead)
    lower, _, middle, upper = nodes
    chosen = {
        "Simultaneous": mlopt.Simultaneous(),
        "Frozen": mlopt.Simultaneous(),
        "Sequential": mlopt.Sequential(),
        "UpperFirst": mlopt.UpperFirst(),
        "Alternate": mlopt.Alternate((lower, 3), (middle, 2), (upper, 1)),
        "together": mlopt.Alternate(((lower, middle), 2), (upper, 1)),
    }[schedule]
    return fault, mlopt.Engine(nodes, schedule=chosen, **options)


@cache
def healthy(schedule: str) -> Any:
    """The state after the step that went wrong elsewhere, but for the global generator."""
    _, control = engine_of(schedule)
    for _ in range(BAD + 1):
        control.step()
    return state_of(control)


SCHEDULES = [
    "Simultaneous",
    "Frozen",
    "Sequential",
    "UpperFirst",
    "Alternate",
    "together",
    "repeat",
]


@pytest.mark.parametrize(
    ("schedule", "level", "kind"),
    thinned(4, SCHEDULES, LEVELS, ["loss", "infinite loss", "gradient nan", "gradient inf"]),
)
def test_nothing_is_committed(schedule, level, kind):
    fault, engine = engine_of(schedule)
    for _ in range(BAD):
        engine.step()
    before = state_of(engine)
    fault.level, fault.kind = level, kind
    fault.clear()
    with pytest.raises(mlopt.NonFiniteError) as raised:
        engine.step()
    assert_same(before, state_of(engine))
    assert raised.value.step == BAD
    assert f"step {BAD}: the " in str(raised.value)
    assert f" of {raised.value.problem} is not finite" in str(raised.value)
    assert "skip_nonfinite" in str(raised.value)
    if schedule != "UpperFirst":  # there a fault above reaches the levels below within the step
        assert raised.value.problem == level
    tried = list(fault.batches)

    # The same step again, healthy: as if nothing had happened.
    fault.level = ""
    fault.clear()
    engine.step()
    for (a, x), (b, y) in zip(tried, fault.batches, strict=False):
        assert a == b
        assert x[0] is y[0]
    assert_same(state_of(engine), healthy(schedule) | {"rng": torch.get_rng_state()})


@pytest.mark.parametrize(("schedule", "level", "call"), thinned(3, SCHEDULES, LEVELS, [0, 1]))
def test_an_exception_in_an_objective(schedule, level, call):
    """At the first or second evaluation of a level, inside a difference among others."""
    fault, engine = engine_of(schedule)
    for _ in range(BAD):
        engine.step()
    before = state_of(engine)
    fault.level, fault.kind, fault.call = level, "exception", call
    fault.clear()
    try:
        engine.step()
    except RuntimeError as error:
        assert str(error) == "injected"  # noqa: PT017
    else:
        assert fault.calls[level] <= call  # there was no such evaluation
        return
    assert_same(before, state_of(engine))
    fault.level = ""
    engine.step()
    assert_same(state_of(engine), healthy(schedule) | {"rng": torch.get_rng_state()})


def test_an_exception_in_a_hypergradient():
    fault, engine = engine_of("Simultaneous")
    engine.step()
    before = state_of(engine)
    fault.level, fault.kind = "middle", "exception"
    with pytest.raises(RuntimeError, match="injected"):
        engine.hypergradient(engine.graph.problems[-1])
    assert_same(before, state_of(engine))
    fault.level = ""
    engine.step()
    _, control = engine_of("Simultaneous")
    control.step()
    control.step()
    assert_same(state_of(engine), state_of(control))


def test_a_fault_in_the_first_step_of_all():
    fault, engine = engine_of("Alternate")
    engine.hypergradient(engine.graph.problems[-1])  # past the check of what is read
    before = state_of(engine)
    fault.level, fault.kind = "upper", "loss"
    with pytest.raises(mlopt.NonFiniteError, match="step 0: the loss of upper"):
        engine.step()
    assert_same(before, state_of(engine))
    assert all(not p.optimizer.state for p in engine.graph.problems)


class Recorder(mlopt.Callback):
    def __init__(self) -> None:
        self.skipped: list[tuple[int, str]] = []

    def on_skip(self, engine, error):
        self.skipped.append((error.step, error.problem))


@pytest.mark.parametrize("schedule", ["Simultaneous", "Sequential", "Alternate"])
def test_skipping(schedule):
    """Bad at steps 2, 3 and 5: two in a row may be skipped; their batches are used up."""
    fault, engine = engine_of(schedule, skip_nonfinite=2)
    recorder = Recorder()

    def run(steps, kind):
        fault.level, fault.kind = ("middle", kind) if kind else ("", "")
        engine.run(steps=steps, callbacks=[recorder], progress=False)

    run(2, None)
    before = state_of(engine)
    run(2, "loss")
    after = state_of(engine)
    assert (before.pop("steps"), after.pop("steps")) == (2, 4)
    before.pop("epoch"), after.pop("epoch")
    assert_same(before, after)
    run(1, None)
    assert engine.skipped is None
    run(1, "gradient inf")
    run(1, None)
    assert recorder.skipped == [(2, "middle"), (3, "middle"), (5, "middle")]
    with pytest.raises(mlopt.NonFiniteError) as raised:
        run(3, "loss")
    assert raised.value.step == 9
    assert recorder.skipped[3:] == [(7, "middle"), (8, "middle")]
    assert engine.steps == 9


def test_skipped_steps_move_on_to_the_next_batch():
    data = batches(5)
    W = mlopt.Variable(mlp(), "w")
    seen = []

    @mlopt.problem(over=W, data=data, optimizer=torch.optim.SGD(W.parameters(), lr=0.1))
    def fit(w, batch):
        seen.append(next(i for i, b in enumerate(data) if b[0] is batch[0]))
        bad = float("nan") if seen[-1] == 1 else 0.0
        return mse_loss(w(batch[0]), batch[1]) + bad

    engine = mlopt.Engine([fit], skip_nonfinite=1)
    engine.plan()  # makes the first check
    seen.clear()
    engine.run(steps=4, progress=False)
    assert seen == [0, 1, 2, 3]


def test_state_that_an_optimizer_keeps_elsewhere():
    """Some keep numbers in their groups, or lists of tensors in their state."""

    class Odd(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                group["count"] = group.get("count", 0) + 1
                for p in group["params"]:
                    self.state[p].setdefault("list", [torch.zeros(())])[0].add_(1)
            super().step(closure)

    W, V = mlopt.Variable(mlp(1), "w"), mlopt.Variable(mlp(2), "v")
    data = batches(3)
    bad = [0.0]

    @mlopt.problem(over=W, data=data, optimizer=Odd(W.parameters(), lr=0.1))
    def first(w, batch):
        return mse_loss(w(batch[0]), batch[1])

    @mlopt.problem(over=V, data=data, optimizer=torch.optim.SGD(V.parameters(), lr=0.1))
    def second(v, batch):
        return mse_loss(v(batch[0]), batch[1]) + bad[0]

    engine = mlopt.Engine([first, second], schedule=mlopt.Sequential())
    engine.step()
    before = state_of(engine)
    bad[0] = float("nan")
    with pytest.raises(mlopt.NonFiniteError):
        engine.step()
    assert_same(before, state_of(engine))

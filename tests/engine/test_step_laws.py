"""What a step leaves alone, whatever makes it short: memory, generators, grad mode, the numbers."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from small import F64, assert_same, bilevel, mlp, seeded, sgd, state_of
from torch import Tensor, nn

import mlopt
from mlopt import Central, Exact, OneSided, OneStep
from mlopt._replay import Generators
from mlopt._tensors import add_scaled, apart
from mlopt.hypergrad import derivatives as _derivatives

PRODUCTS = {"exact": Exact(), "central": Central(), "one-sided": OneSided()}


@dataclass(frozen=True)
class Watched(mlopt.AbstractHypergradient):
    """Another method, with a weak reference to each response that it was given."""

    method: Any
    responses: list[Any] = field(default_factory=list)

    moves = True
    responds = True

    @property
    def cost(self) -> mlopt.Cost:
        return self.method.cost

    def check(self, name: str, optimizer: Any) -> None:
        self.method.check(name, optimizer)

    def solution(self, response: mlopt.Response) -> Any:
        return self.method.solution(response)

    def pullback(self, response: mlopt.Response, cotangent: Any, wanted: Sequence[Any]) -> Any:
        self.responses.append(weakref.ref(response))
        return self.method.pullback(response, cotangent, wanted)


@pytest.mark.parametrize(
    ("product", "schedule"),
    list(zip(PRODUCTS, itertools.cycle([mlopt.Simultaneous(), mlopt.UpperFirst()]))),  # noqa: B905
)
def test_a_step_is_freed_without_the_garbage_collector(product, schedule):
    watched = Watched(OneStep(product=PRODUCTS[product]))
    engine = bilevel(hypergrad=watched).engine(schedule=schedule)
    engine.step()  # which checks and measures
    watched.responses.clear()
    gc.freeze()  # what is there already, garbage or not, need not be walked through
    gc.disable()
    try:
        for _ in range(3):
            engine.step()
        assert [response() for response in watched.responses] == [None] * 3
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("given", [(50, 4, 4), (0, 4, 4)], ids=["often", "never"])
def test_the_garbage_collector_does_not_come_in_a_step(given):
    p = nn.Parameter(torch.ones(2, dtype=F64))
    W = mlopt.Variable(p, "w")
    seen, made = [], []

    @mlopt.problem(over=W, optimizer=sgd(W))
    def fit(w):
        made[:] = [[] for _ in range(200)]  # four times as many as call it elsewhere
        if len(seen) == 2:
            raise ValueError("fit has failed")
        return w.square().sum()

    def come(phase: str, info: Any) -> None:
        seen[-1] += phase == "start"

    engine = mlopt.Engine([fit])
    engine.step()
    before = gc.get_threshold()
    gc.callbacks.append(come)
    try:
        for _ in range(2):
            seen.append(0)
            gc.set_threshold(*given)
            if len(seen) == 1:
                engine.step()
            else:
                with pytest.raises(ValueError, match="fit has failed"):
                    engine.step()
            assert gc.get_threshold() == given
            gc.set_threshold(0)
    finally:
        gc.callbacks.remove(come)
        gc.set_threshold(*before)
    assert max(seen) <= 1  # when it is over


class Drawing(torch.optim.SGD):
    """Draws noise, as Langevin dynamics does, and notes it and the grad mode."""

    def step(self, closure=None):
        self.seen = getattr(self, "seen", [])
        self.seen.append((torch.randn(3), torch.is_grad_enabled()))
        return super().step(closure)


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("schedule", ["simultaneous", "upper first", "alternate"])
def test_optimizers_draw_from_the_callers_generator_in_the_callers_grad_mode(schedule, enabled):
    def drawing(variable):
        return Drawing(variable.parameters(), lr=0.1)

    net = nn.Sequential(mlp(), nn.Dropout(0.5))
    method = OneStep(0.1, Central())
    case = bilevel(net, optimizer=drawing, upper_optimizer=drawing, hypergrad=method)
    schedules = {
        "simultaneous": mlopt.Simultaneous(),
        "upper first": mlopt.UpperFirst(),
        "alternate": mlopt.Alternate((case.lower, 2), (case.upper, 1)),
    }
    engine = case.engine(schedule=schedules[schedule])
    torch.manual_seed(3)
    with torch.set_grad_enabled(enabled):
        engine.step()
    after = torch.get_rng_state()
    lower, upper = case.lower.optimizer.seen, case.upper.optimizer.seen
    found = [*upper, *lower] if schedule == "upper first" else [*lower, *upper]
    torch.manual_seed(3)
    for noise, mode in found:
        assert torch.equal(noise, torch.randn(3))
        assert mode is enabled
    assert torch.equal(torch.get_rng_state(), after)


class Failing(nn.Module):
    """Draws numbers, then raises at a given call."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.net, self.left = mlp(), iter(range(at - 1, -1, -1))

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.rand(())
        if next(self.left, 0) == 0:
            raise RuntimeError("this call fails")
        return self.net(x) + noise.double()


@pytest.mark.parametrize("at", range(3, 7))
def test_generators_are_put_back_when_an_evaluation_raises(at):
    engine = bilevel(Failing(at)).engine()  # the check before the first step makes two calls
    torch.manual_seed(11)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="this call fails"):
        engine.step()
    assert torch.equal(torch.get_rng_state(), before)


def test_blocks_of_generators_may_be_nested():
    torch.manual_seed(11)
    before, generators = torch.get_rng_state(), Generators()
    with generators:
        generators.seed(1)
        first = torch.rand(3)
        with generators:
            generators.seed(1)
            assert torch.equal(torch.rand(3), first)
        assert not torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("product", PRODUCTS)
def test_torchs_own_gradient_gives_the_same_bits(product, monkeypatch):
    def run() -> Any:
        net = seeded(2, lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)))
        case = bilevel(net, hypergrad=OneStep(product=PRODUCTS[product]))
        engine = case.engine()
        for _ in range(3):
            engine.step()
        return state_of(engine)

    assert _derivatives._engine() is not None
    direct = run()
    monkeypatch.setattr(_derivatives, "_engine", lambda: None)
    assert_same(direct, run())


class Other:
    """An autograd of another torch."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def run_backward(self, *args: Any) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "engine",
    [
        Other(TypeError("takes 3 positional arguments")),
        Other((torch.tensor(3.0),)),
        Other((torch.tensor(2.0), None)),
        Other((torch.tensor(3.0), torch.tensor(0.0))),
        object(),
    ],
)
def test_another_autograd_is_not_called_directly(engine, monkeypatch):
    monkeypatch.setattr(torch.autograd.Variable, "_execution_engine", engine)
    assert _derivatives._engine.__wrapped__() is None


def test_levels_of_two_precisions_are_decided_together():
    W = mlopt.Variable(nn.Parameter(torch.ones(2)), "w")
    A = mlopt.Variable(nn.Parameter(torch.ones(2, dtype=F64)), "a")
    worst = {"a": 0.0}

    @mlopt.problem(over=W, optimizer=sgd(W))
    def single(w):
        return (w**2).sum()

    @mlopt.problem(over=A, optimizer=sgd(A))
    def double(a):  # finite in double precision alone, until it is not
        return 1e200 * (a**2).sum() * 1e-200 + 1e300 * worst["a"]

    engine = mlopt.Engine([single, double])
    worst["a"] = 1.0
    engine.step()
    worst["a"] = float("inf")
    with pytest.raises(mlopt.NonFiniteError, match="the loss of double"):
        engine.step()


def test_both_sides_of_a_point():
    base = {("w", "x"): torch.tensor([1.0, 2.0]), ("w", "y"): torch.tensor([5.0])}
    direction = {("w", "x"): torch.tensor([3.0, -1.0])}
    plus, minus = apart(base, direction, torch.tensor(0.5))
    assert_same(plus, add_scaled(base, direction, 0.5))
    assert_same(minus, add_scaled(base, direction, -0.5))
    assert plus["w", "y"] is base["w", "y"]
    plus, minus = apart(base, {}, torch.tensor(0.5))
    assert plus == minus == base
    assert plus is not base

"""Optimizers and schedulers of any kind are put back, or it is said what of them is not."""

from __future__ import annotations

import copy
import io
import threading
import types
from typing import Any

import numpy as np
import pytest
import torch
from engine.chaos import held
from engine.test_wholeness import take
from small import assert_same, bilevel
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.optim.lr_scheduler import StepLR

import mlopt
from mlopt._engine import reach

OPTIMIZERS = [
    o for o in vars(torch.optim).values()
    if isinstance(o, type) and issubclass(o, torch.optim.Optimizer)
    and o not in (torch.optim.Optimizer, torch.optim.LBFGS, torch.optim.SparseAdam)
]  # fmt: skip


@pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.__name__)
def test_all_of_torchs_optimizers_can_be_put_back(kind: Any) -> None:
    """Nothing of them is out of reach, and a step that fails leaves them as they were."""
    if kind.__name__ == "Muon":
        pytest.skip("it takes matrices alone")
    made = bilevel(hypergrad=mlopt.Frozen(), optimizer=lambda v: kind(v.parameters(), lr=0.01))
    engine = made.engine()
    take(engine, 2)  # a warning would be an error
    before = held(engine)
    broken = made.upper.optimizer.register_step_post_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.step()
    assert_same(before, held(engine))
    broken.remove()
    take(engine)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: schedulers.LambdaLR(o, lambda t: 0.9**t),
        lambda o: schedulers.CyclicLR(o, 0.01, 0.1, cycle_momentum=False),
        lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=9),
        lambda o: schedulers.ChainedScheduler([StepLR(o, 1), schedulers.ConstantLR(o)]),
        lambda o: schedulers.CosineAnnealingWarmRestarts(o, 2),
        lambda o: torch.optim.swa_utils.SWALR(o, 0.01),
    ],
)
def test_schedulers_can_be_put_back(make: Any) -> None:

    def made() -> mlopt.Engine:
        m = bilevel(upper_optimizer=lambda v: torch.optim.SGD(v.parameters(), 0.1, momentum=0.5))
        m.upper.scheduler = mlopt.PerStep(make(m.upper.optimizer))
        return m.engine()

    engine, control = made(), made()
    take(engine, 2)
    take(control, 5)
    before = held(engine)
    with pytest.MonkeyPatch.context() as once:
        once.setattr(engine.clock, "after_step", after_and(engine.clock.after_step))
        with pytest.raises(ZeroDivisionError):
            engine.step()
    assert_same(before, held(engine))
    take(engine, 3)
    assert engine.epoch == 1  # and its mean losses
    assert_same(held(control), held(engine))


def after_and(do: Any) -> Any:
    """Something that fails when all else is done."""

    def fails(*arguments: Any, **options: Any) -> None:
        do(*arguments, **options)
        raise ZeroDivisionError

    return fails


class Closed(torch.optim.SGD):
    """Holds what nobody can look into, and what leads to other objects."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr=lr)
        self.lock = threading.Lock()
        self.settings = {"name": "x", "rows": iter([1])}
        self.trainer = types.SimpleNamespace(a=types.SimpleNamespace(b=types.SimpleNamespace()))


class Watched(StepLR):
    """A scheduler that holds such a thing as well."""

    def __init__(self, optimizer: Any) -> None:
        self._file = io.StringIO()
        super().__init__(optimizer, 1)


def test_what_cannot_be_put_back_is_said_at_the_first_step() -> None:
    made = bilevel(hypergrad=mlopt.Frozen(), optimizer=lambda v: Closed(v.parameters(), lr=0.1))
    made.lower.scheduler = mlopt.PerStep(Watched(made.lower.optimizer))
    engine = made.engine()
    with pytest.warns(mlopt.CapabilityWarning) as said:
        engine.step()
    text = str(said[0].message)
    assert len(said) == 1
    for path in (".lock (lock)", ".settings['rows'] (list_iterator)", ".trainer.a.b (SimpleN"):
        assert f"fit.optimizer{path}" in text
    assert "fit.scheduler._file (StringIO)" in text
    take(engine)


@pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.__name__)
def test_the_short_way_through_an_optimizer_finds_what_the_long_one_finds(kind, monkeypatch):
    if kind.__name__ == "Muon":
        parameters = [nn.Parameter(torch.ones(2, 2)) for _ in range(2)]
    else:
        parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))]
    optimizer = kind(parameters, lr=0.1)
    StepLR(optimizer, 1)
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step()
    short = reach.reach(optimizer, "o")
    monkeypatch.setattr(reach, "_own_optimizer", lambda *_: False)
    long = reach.reach(optimizer, "o")
    assert set(map(id, short.tensors)) == set(map(id, long.tensors))
    found = set(map(id, short.containers))
    # Hooks and defaults are no part of a step; of a scheduler its own wrapper holds the rest.
    parts = [optimizer.__dict__, optimizer.state, *optimizer.state.values(),
             optimizer.param_groups, *optimizer.param_groups]  # fmt: skip
    assert set(map(id, parts)) <= found <= set(map(id, long.containers))


def test_parameters_may_become_of_two_kinds() -> None:
    """Small ones are copied in one piece, as long as they are of one kind."""
    module = nn.ParameterList([torch.ones(2), torch.ones(2)])
    W = mlopt.Variable(module, "w")
    optimizer = torch.optim.SGD(W.parameters(), lr=0.1)
    fit = mlopt.problem(over=W, optimizer=optimizer)(lambda w: sum(p.abs().sum() for p in w))
    engine = mlopt.Engine([fit])
    engine.step()
    module[0].data, module[0].grad = module[0].data * 1j, None
    before = [p.detach().clone() for p in module]
    optimizer.register_step_post_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.step()
    for p, value in zip(module, before, strict=True):
        assert p.dtype == value.dtype
        assert torch.equal(p, value)


def test_what_a_method_written_in_c_is_bound_to() -> None:
    """NumPy's generators give methods whose class says no module of its own."""

    class Noisy(torch.optim.SGD):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, lr=0.1)
            self.noise = np.random.default_rng(0).normal

    made = bilevel(hypergrad=mlopt.Frozen(), optimizer=lambda v: Noisy(v.parameters()))
    take(made.engine(), 2)


class OnParameters(torch.optim.SGD):
    """Momentum and a count in attributes of the parameters."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            if not hasattr(p, "momentum"):
                p.momentum, p.count = torch.zeros_like(p), 0
            p.count += 1
            p.momentum.mul_(0.9).add_(p.grad)
            p.sub_(p.momentum, alpha=0.1 / p.count)


@pytest.mark.parametrize("after", [0, 2])
def test_state_in_attributes_of_parameters(after: int) -> None:
    def made() -> Any:
        return bilevel(hypergrad=mlopt.Frozen(), optimizer=lambda v: OnParameters(v.parameters()))

    twin, broken = made(), made()
    engines = twin.engine(), broken.engine()
    for engine in engines:
        take(engine, after)
    hook = broken.upper.optimizer.register_step_post_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engines[1].step()
    hook.remove()
    for engine in engines:
        take(engine, 2)
    assert_same(held(engines[0]), held(engines[1]))
    assert [vars(p) for p in broken.W.parameters()] != [{}]
    for p, q in zip(twin.W.parameters(), broken.W.parameters(), strict=True):
        assert_same(vars(p), vars(q))


def test_a_deep_copy_of_an_engine_is_put_back_too() -> None:
    made = bilevel(hypergrad=mlopt.OneStep(lr=0.1))
    made.lower.scheduler = mlopt.PerStep(StepLR(made.lower.optimizer, 1, 0.5))
    engine = made.engine()
    take(engine, 2)
    other = copy.deepcopy(engine)
    before = held(other), held(engine)
    lower, upper = other.graph.problems
    hook = upper.optimizer.register_step_post_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        other.step()
    hook.remove()
    assert_same(before[0], held(other))
    assert lower.scheduler.scheduler.last_epoch == 2
    assert_same(before[1], held(engine))
    take(other, 2)
    take(engine, 2)
    assert_same(held(engine), held(other))

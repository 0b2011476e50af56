"""Engines work one at a time: in threads, and not in the middle of their own work."""

from __future__ import annotations

import sys
import threading

import pytest
import torch
from small import F64, assert_same, bilevel, mlp, sgd, state_of
from torch import nn
from torch.utils.data import DataLoader, Dataset

import mlopt
from mlopt import GraphError, SettingsError


class Augmented(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        return i + torch.rand(3, dtype=F64)


class Noisy(torch.optim.SGD):
    """Draws noise where it steps, from torch's own generator."""

    def step(self, closure=None):
        torch.rand(3)
        return super().step(closure)


class Draws(mlopt.Callback):
    def on_step(self, engine, metrics):
        torch.rand(2)


def made(seed: int):
    net = nn.Sequential(mlp(seed), nn.Dropout(0.5))
    W = mlopt.Variable(net, "w")
    A = mlopt.Variable(nn.Parameter(torch.zeros(3, dtype=F64)), "a")
    data = DataLoader(Augmented(), batch_size=2, shuffle=True)

    @mlopt.problem(
        over=W,
        given=[A],
        data=data,
        optimizer=Noisy(W.parameters(), lr=0.05),
        hypergrad=mlopt.OneStep(lr=0.05),
    )
    def fit(w, a, batch):
        return (w(batch * a.exp() + torch.rand(3, dtype=F64)) - 1).square().mean()

    @mlopt.problem(over=A, given=[W], data=data, optimizer=sgd(A))
    def tune(a, w, batch):
        return w(batch).square().mean() + a.square().sum()

    return mlopt.Engine([fit, tune], seed=seed)


def test_engines_in_threads_compute_what_they_compute_alone():
    """With draws in loaders, objectives, optimizers, callbacks and validation."""

    def run(engine):
        def validate():
            torch.rand(2)

        engine.run(epochs=5, validate=validate, callbacks=[Draws()], progress=False)

    expected = []
    for seed in range(3):
        engine = made(seed)
        run(engine)
        expected.append(without_rng(engine))
    engines = [made(seed) for seed in range(3)]
    together = threading.Barrier(3)

    def begin(engine):
        together.wait()
        run(engine)

    threads = [threading.Thread(target=begin, args=(engine,)) for engine in engines]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert_same([without_rng(engine) for engine in engines], expected)


def without_rng(engine):
    state = state_of(engine)
    del state["rng"]  # which callbacks and optimizers have moved on
    return state


ASKS = {
    "step()": lambda e: e.step(),
    "hypergradient()": lambda e: e.hypergradient(e.graph.problems[0]),
    "plan()": lambda e: e.plan(),
    "run()": lambda e: e.run(steps=1, progress=False),
}


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("within", ASKS)
def test_an_engine_is_not_asked_by_its_own_functions(ask, within):
    asking = []
    W = mlopt.Variable(nn.Parameter(torch.ones(2, dtype=F64)), "w")

    @mlopt.problem(over=W, optimizer=sgd(W))
    def fit(w):
        if asking:
            ASKS[asking.pop()](engine)
        return w.square().sum()

    engine = mlopt.Engine([fit])
    other = bilevel().engine()
    engine.step()
    before = state_of(engine)
    if within == "plan()":  # which evaluates in its first check alone
        engine = mlopt.Engine([fit])
        before = state_of(engine)
    asking.append(ask)
    error = SettingsError if (ask, within) == ("step()", "run()") else GraphError
    with pytest.raises(error, match="engine"):
        ASKS[within](engine)
    assert not asking
    assert_same(state_of(engine), before)
    other.step()
    ASKS[within](engine)  # nothing is left of the refusal


def test_declared_in_another_thread_in_the_middle_of_a_step():
    """It waits until the module has its own parameters again."""
    W = mlopt.Variable(mlp(), "w")
    R = mlopt.Variable(nn.Parameter(torch.zeros((), dtype=F64)), "r")
    x, optimizer, again = torch.ones(2, 3, dtype=F64), sgd(W), sgd(W)
    declared, threads = [], []

    def declare():
        problem = mlopt.problem(over=W, optimizer=again)(lambda w: w(x).square().mean())
        declared.append(mlopt.Engine([problem]))

    def up(r, w):
        if threads == [None]:
            threads[0] = threading.Thread(target=declare)
            threads[0].start()
            threads[0].join(0.2)
            assert not declared
        return (w(x) - r).square().mean()

    low = mlopt.problem(over=W, given=[R], optimizer=optimizer, hypergrad=mlopt.OneStep())(
        lambda w, r: (w(x) * r.exp()).square().mean()
    )
    engine = mlopt.Engine([low, mlopt.problem(over=R, given=[W], optimizer=sgd(R))(up)])
    engine.step()
    threads.append(None)
    engine.step()
    threads[0].join()
    declared[0].step()


@pytest.mark.parametrize("hook", ["on_start", "on_step", "on_log", "on_epoch", "on_end"])
@pytest.mark.parametrize("ask", ["step()", "run()"])
def test_a_callback_takes_no_steps_and_may_ask_for_all_else(hook, ask):
    case = bilevel()
    engine = case.engine()
    told = []

    class Asks(mlopt.Callback):
        pass

    def asks(self, asked, *what):
        told.append(asked)
        asked.hypergradient(case.upper)
        asked.plan()
        bilevel().engine().run(steps=1, progress=False)
        ASKS[ask](asked)

    setattr(Asks, hook, asks)
    with pytest.raises(SettingsError, match=rf"{ask[:-2]}\(\): .*engine"):
        engine.run(epochs=1, callbacks=[Asks()], log_every=1, progress=False)
    assert told == [engine]
    steps = engine.steps
    engine.run(steps=2, progress=False)
    assert engine.steps == steps + 2

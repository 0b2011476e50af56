"""Runs and hypergradients that cannot be: refused, with the remedy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bad_input import V, W, over_w
from small import batches, bilevel, sgd

import mlopt
from mlopt import GraphError, NonFiniteError, SettingsError


def test_hypergradient_of_a_stranger():
    engine = mlopt.Engine([mlopt.problem(over=V, optimizer=sgd(V))(lambda v: v.square().sum())])
    for stranger in (over_w(), V, None, 0, "fit", V.tensor):
        with pytest.raises(GraphError, match="not a problem of this engine"):
            engine.hypergradient(stranger)


def test_nothing_to_step():
    engine = mlopt.Engine([mlopt.problem(over=W)(lambda w: w.sum())])
    with pytest.raises(GraphError, match="no problem has an optimizer"):
        engine.step()


# Runs.


def test_run_settings():
    case = bilevel()
    engine = case.engine()
    for options in ({}, {"steps": 1, "epochs": 1}):
        with pytest.raises(SettingsError, match="give either steps= or epochs="):
            engine.run(**options, progress=False)
    with pytest.raises(SettingsError, match="epoch= names a stream that no problem"):
        engine.run(epochs=1, epoch=batches(2), progress=False)
    with pytest.raises(SettingsError, match="epoch= names a stream that no problem"):
        engine.run(epochs=1, epoch=mlopt.Stream(case.train), progress=False)
    assert engine.steps == 0
    engine.run(epochs=1, progress=False)  # what was refused has left no trace
    assert engine.steps == 5


def made(hook, function):
    """A callback with one method of its own."""
    return type("Made", (mlopt.Callback,), {hook: function})()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        *[({"steps": v}, rf"run\W+steps={v}.*whole number, at least 0") for v in (-1, 1.5, True)],
        ({"steps": float("nan")}, r"run\W+steps=nan"),
        ({"steps": "3"}, r"run\W+steps='3'"),
        ({"epochs": -1}, r"run\W+epochs=-1.*whole number, at least 0"),
        ({"epochs": 0.5}, r"run\W+epochs=0.5"),
        ({"steps": 1, "validate": {"accuracy": 1}}, r"run\W+validate=.*a function"),
        ({"steps": 1, "validate_every": 0}, r"run\W+validate_every=0.*at least 1"),
        ({"steps": 1, "log_every": 0}, r"run\W+log_every=0.*at least 1"),
        ({"steps": 1, "log_every": None}, r"run\W+log_every=None"),
        ({"steps": 1, "callbacks": [print]}, r"run\W+callbacks= holds <built-in.*mlopt.Callback"),
        ({"steps": 1, "callbacks": [mlopt.Callback]}, r"run\W+callbacks= holds <class"),
        ({"steps": 1, "callbacks": mlopt.Callback()}, r"run\W+callbacks= takes a list"),
        ({"steps": 1, "callbacks": None}, r"run\W+callbacks= takes a list"),
        ({"steps": 1, "validate": lambda engine: {}}, "validate= is called without arguments"),
        (
            {"steps": 1, "callbacks": [made("on_epoch_end", lambda self, engine, metrics: None)]},
            "Made.on_epoch_end is no hook.*on_epoch, on_validation",
        ),
        (
            {"steps": 1, "callbacks": [made("on_step", lambda self, metrics: None)]},
            r"Made.on_step is called with \(engine, metrics\)",
        ),
        ({"steps": 1, "epoch": 3}, "epoch= names a stream.*int"),
        ({"steps": 1, "progress": "no"}, r"run\W+progress='no'.*True or False"),
        ({"epochs": 1, "steps": None, "epoch": [1]}, "epoch= names a stream"),
    ],
)
def test_a_bad_option_of_a_run_is_refused_before_it_begins(options, match):
    engine = bilevel().engine()
    options = {"progress": False, **options}
    with pytest.raises(SettingsError, match=match):
        engine.run(**options)
    assert engine.steps == 0
    assert engine.measurement is None


def test_whole_numbers_of_numpy_are_whole():
    engine = bilevel().engine(seed=np.int64(3), skip_nonfinite=np.int32(1))
    engine.run(steps=np.int64(2), log_every=np.int32(1), progress=False)
    assert engine.steps == 2
    engine.run(epochs=np.int8(1), progress=False)
    assert engine.epoch == 1


def test_seeds_of_strangers():
    case = bilevel()
    engine = case.engine()
    for node in (over_w(), None, "fit", 0, [case.lower]):
        with pytest.raises(GraphError, match="seed_of: node=.*no problem or signal"):
            engine.seed_of(node)
    for options in ({"inner": -1}, {"inner": 0.5}, {"step": -1}, {"step": "1"}, {"step": True}):
        with pytest.raises(GraphError, match=r"seed_of\((inner|step)=.*whole number"):
            engine.seed_of(case.lower, **options)
    assert engine.seed_of(case.lower) == engine.seed_of(case.lower, step=0)


def test_epochs_without_data():
    alone = mlopt.problem(over=W, optimizer=sgd(W))(lambda w: w.square().sum())
    with pytest.raises(SettingsError, match="epochs= needs data"):
        mlopt.Engine([alone]).run(epochs=1, progress=False)
    late = mlopt.problem(over=W, optimizer=sgd(W), start=2, name="late")(lambda w: w.square().sum())
    with pytest.raises(GraphError, match="late: start=2 counts epochs"):
        mlopt.Engine([late])
    waits = mlopt.problem(over=W, data=batches(3), optimizer=sgd(W), start=1, name="waits")(
        lambda w, batch: w.square().sum()
    )
    with pytest.raises(GraphError, match="waits: start=1 counts epochs.*begins at once"):
        mlopt.Engine([waits])  # would wait for itself
    paced = mlopt.problem(
        over=W, optimizer=(o := sgd(W)), scheduler=torch.optim.lr_scheduler.StepLR(o, 1)
    )(lambda w: w.square().sum())
    with pytest.raises(GraphError, match="stepped after each epoch.*PerStep.*once in each step"):
        mlopt.Engine([paced])
    with pytest.raises(
        SettingsError, match=r"validate_every=2 counts epochs.*Validation\(.*steps=n"
    ):
        mlopt.Engine([alone]).run(steps=1, validate=dict, validate_every=2, progress=False)


def test_hooks_may_take_whatever_they_are_given():
    seen = []
    engine = bilevel().engine()
    hook = made("on_step", lambda self, *what, **more: seen.append(what))
    hook.on_fire = 3  # no method
    engine.run(steps=1, callbacks=[hook], validate=lambda *_, **__: None, progress=False)
    assert seen[0][0] is engine


@pytest.mark.parametrize("error", [KeyboardInterrupt, NonFiniteError, ValueError])
def test_the_error_that_ends_a_run_is_raised_whatever_on_end_raises(error):
    class Ends(mlopt.Callback):
        def on_step(self, engine, metrics):
            raise error("first")

        def on_end(self, engine):
            raise RuntimeError("second")

    engine = bilevel().engine()
    with pytest.raises(error, match="first") as raised:
        engine.run(steps=2, callbacks=[Ends()], progress=False)
    if hasattr(raised.value, "__notes__"):  # Python 3.11
        assert any("second" in note for note in raised.value.__notes__)
    engine.run(steps=1, progress=False)


def test_an_engine_under_inference_mode():
    case = bilevel()
    engine = case.engine()
    asks = [engine.step, engine.plan, lambda: engine.hypergradient(case.upper)]
    for ask in [*asks, lambda: engine.run(steps=1, progress=False)]:
        with torch.inference_mode(), pytest.raises(GraphError, match="inference_mode.*outside"):
            ask()
    with torch.no_grad():
        engine.step()


def test_an_optimizer_whose_step_asks_for_a_closure():
    class Ascends(torch.optim.SGD):
        def step(self, closure):
            closure()

    with pytest.raises(GraphError, match="step.. of Ascends asks for arguments"):
        over_w(optimizer=Ascends(W.parameters(), lr=0.1))


@pytest.mark.parametrize("play", [None, mlopt.games.Joint(2)])
def test_a_level_that_is_frozen_in_between_stays(play):
    X, Y = (mlopt.Variable(torch.nn.Parameter(torch.ones(2)), n) for n in "xy")
    low = mlopt.problem(over=X, given=[Y], optimizer=sgd(X))(lambda x, y: ((x - 2 * y) ** 2).sum())
    up = mlopt.problem(over=Y, given=[X], optimizer=sgd(Y))(lambda y, x: ((y - 3 * x) ** 2).sum())
    if play is None:
        engine = mlopt.Engine([low, up], hypergrad=mlopt.Unrolled(2))
    else:
        engine = mlopt.Engine([mlopt.Game([low, up], play=play)])
    engine.step()
    X.tensor.requires_grad_(False)
    before = [v.tensor.clone() for v in (X, Y)]
    engine.step()
    assert torch.equal(X.tensor, before[0])
    assert not torch.equal(Y.tensor, before[1])

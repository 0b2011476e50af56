"""Runs and hypergradients that cannot be: refused, with the remedy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bad_input import V, W, over_w
from small import batches, bilevel, sgd

import mlopt
from mlopt import GraphError, SettingsError


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
    with pytest.raises(GraphError, match="its scheduler is stepped after each epoch.*PerStep"):
        mlopt.Engine([paced])
    with pytest.raises(SettingsError, match="validate_every=2 counts epochs.*on_step"):
        mlopt.Engine([alone]).run(steps=1, validate=dict, validate_every=2, progress=False)

"""Runs and hypergradients that cannot be: refused, with the remedy."""

from __future__ import annotations

import pytest
from bad_input import V, W, over_w
from small import batches, bilevel, sgd

import mlopt
from mlopt import GraphError, SettingsError


def test_hypergradient_of_a_stranger():
    engine = mlopt.Engine([mlopt.problem(over=V, optimizer=sgd(V))(lambda v: v.square().sum())])
    with pytest.raises(GraphError, match="not a problem of this engine"):
        engine.hypergradient(over_w())


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

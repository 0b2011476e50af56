"""Runs of an engine, and what observers are told."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from compare import exact, rounding
from engine.metered import metrics_case
from small import F64, assert_same, batches, mlp, sgd, state_of
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import mlopt


class Log(mlopt.Callback):
    def __init__(self, stop_at: int | None = None) -> None:
        self.events: list[str] = []
        self.payload: dict[str, list] = {}
        self.stop_at = stop_at

    def _note(self, event, engine, payload=None):
        self.events.append(event)
        self.payload.setdefault(event, []).append((engine.steps, engine.epoch, payload))

    def on_start(self, engine):
        self._note("start", engine)

    def on_step(self, engine, metrics):
        self._note("step", engine, metrics)
        if engine.steps == self.stop_at:
            engine.stop()

    def on_log(self, engine, metrics):
        self._note("log", engine, metrics)

    def on_epoch(self, engine, metrics):
        self._note("epoch", engine, metrics)

    def on_validation(self, engine, metrics):
        self._note("validation", engine, metrics)

    def on_skip(self, engine, error):
        self._note("skip", engine, error)

    def on_end(self, engine):
        self._note("end", engine)


def test_callbacks_in_order_with_their_payload():
    _, engine = metrics_case()
    log, second = Log(), Log()
    asked = []

    def validate():
        asked.append(engine.epoch)
        return {"accuracy": 0.5}

    engine.run(
        epochs=4,
        validate=validate,
        validate_every=2,
        callbacks=[log, second],
        log_every=5,
        progress=False,
    )
    assert log.events == second.events
    # an epoch is three steps; logged are every fifth step, and the last of each epoch
    epoch = ["step", "step", "step", "log", "epoch"]
    fifth = ["step", "step", "log", "step", "log", "epoch"]
    tenth = ["step", "log", "step", "step", "log", "epoch"]
    validation = ["validation"]
    assert log.events == [
        "start",
        *epoch,
        *fifth,
        *validation,
        *epoch,
        *tenth,
        *validation,
        "end",
    ]
    assert asked == [2, 4]
    assert [p[2] for p in log.payload["validation"]] == [{"accuracy": 0.5}] * 2
    assert [p[:2] for p in log.payload["epoch"]] == [(3, 1), (6, 2), (9, 3), (12, 4)]
    steps = [p[2] for p in log.payload["step"]]
    assert all(isinstance(m["fit/loss"], Tensor) for m in steps)
    for name in ("fit/loss", "tune/loss"):
        first = log.payload["epoch"][0][2][name]
        exact(first, sum(m[name].item() for m in steps[:3]) / 3, rounding(4))
    numbers = log.payload["log"][0][2]
    assert type(numbers["fit/loss"]) is float
    assert numbers["fit/call"] == steps[2]["fit/call"]
    assert numbers["tune/loss"] == steps[2]["tune/loss"].item()


def test_small_signals_are_logged_by_name():
    W = mlopt.Variable(mlp(), "w")

    @mlopt.problem(over=W, data=batches(2), optimizer=sgd(W))
    def fit(w, batch):
        return mse_loss(w(batch[0]), batch[1])

    A = mlopt.Variable(nn.Parameter(torch.zeros((), dtype=F64)), "a")

    @mlopt.signal(given=[W])
    def weights(w):
        return w[2].weight.flatten()

    @mlopt.signal(given=[W])
    def picture(w):
        return w[0].weight * 1

    @mlopt.problem(over=A, given=[weights, picture], optimizer=sgd(A))
    def top(a, weights, picture):
        return a * weights.sum() * picture.sum()

    log = Log()
    engine = mlopt.Engine([fit, weights, picture, top], hypergrad=mlopt.Frozen())
    engine.run(steps=2, log_every=1, callbacks=[log], progress=False)
    numbers = log.payload["log"][-1][2]
    assert numbers["signal/weights"] == engine.signals["weights"].tolist()
    assert "signal/picture" not in numbers


def test_stop_ends_the_run_after_the_step_and_the_next_run_goes_on():
    _, engine = metrics_case()
    log = Log(stop_at=4)
    engine.run(steps=100, callbacks=[log], progress=False)
    assert engine.steps == 4
    assert engine.stopping
    assert log.events[-1] == "end"
    engine.run(steps=2, progress=False)
    assert engine.steps == 6
    assert not engine.stopping


def test_the_end_is_told_also_of_an_error():
    class Failing(Log):
        def on_step(self, engine, metrics):
            raise RuntimeError("observer")

    log = Failing()
    with pytest.raises(RuntimeError, match="observer"):
        metrics_case()[1].run(steps=3, callbacks=[log], progress=False)
    assert log.events == ["start", "end"]


def test_steps_and_runs_are_the_same_however_they_are_cut():
    _, one = metrics_case()
    _, two = metrics_case()
    _, three = metrics_case()
    one.run(epochs=3, progress=False)
    for n in (2, 5, 2):
        two.run(steps=n, progress=False)
    for _ in range(9):
        three.step()
    assert_same(state_of(one), state_of(two))
    assert_same(state_of(one), state_of(three))


def test_a_run_of_no_steps_checks_nothing_and_ends():
    _, engine = metrics_case()
    log = Log()
    engine.run(steps=0, callbacks=[log], progress=False)
    assert log.events == ["start", "end"]


class Endless:
    """A stream without an end, which therefore has no length."""

    def __iter__(self):
        return itertools.repeat(torch.ones(1, dtype=F64))


def lone(data=None, metrics=None):
    """A problem that returns these metrics."""
    W = mlopt.Variable(nn.Parameter(torch.ones(2, dtype=F64)), "w")

    @mlopt.problem(over=W, data=data, optimizer=sgd(W))
    def fit(w, batch=None):
        return w.square().sum(), metrics() if metrics else {}

    return mlopt.Engine([fit])


@pytest.mark.parametrize(
    ("data", "options", "expected"),
    [
        (None, {"steps": 7}, [7]),
        (Endless(), {"steps": 7}, [7]),
        (range(3), {"steps": 7}, [3, 6, 7]),
        (range(3), {"steps": 6}, [3, 6]),
        (range(3), {"steps": 7, "validate_every": 2}, [6, 7]),
        (range(3), {"epochs": 3, "validate_every": 2}, [6, 9]),
        (range(3), {"steps": 2, "validate_every": 9}, [2]),
        (range(3), {"steps": 0}, []),
    ],
)
def test_validation_comes_after_epochs_and_after_the_last_step(data, options, expected):
    engine, log, at = lone(data), Log(), []
    engine.run(validate=lambda: at.append(engine.steps), callbacks=[log], progress=False, **options)
    assert at == expected
    assert [e for e in log.events if e in ("validation", "end")] == ["validation"] * len(at) + [
        "end"
    ]


def test_a_validation_returns_metrics():
    engine = lone()
    for wrong in (0.5, [0.5], "fine", torch.ones(1)):
        with pytest.raises(mlopt.SettingsError, match="validate= returned a .*a dict of metrics"):
            engine.run(steps=1, validate=lambda wrong=wrong: wrong, progress=False)
    assert engine.steps == 4  # each is whole


def test_a_run_counted_by_a_pass_that_does_not_end_says_so():
    class Stops(mlopt.Callback):
        def on_step(self, engine, metrics):
            if engine.steps == 1200:
                engine.stop()

    with pytest.warns(
        mlopt.CapabilityWarning, match="not ended after 1000 steps.*give steps="
    ) as w:
        lone(Endless()).run(epochs=1, callbacks=[Stops()], progress=False)
    assert len(w) == 1


def test_metrics_that_are_logged_and_what_is_left_out():
    def metrics():
        return {
            "word": "a",
            "none": None,
            "flag": True,
            "half": torch.ones((), dtype=torch.float16),
            "list": [1, torch.tensor(2.0, dtype=F64), np.float64(3)],
            "array": np.arange(3),
            "nested": {"deep": {"x": torch.ones(2, dtype=F64)}, 1: 0.5},
            "matrix": torch.ones(2, 3),
            "object": print,
            "rows": [[1], [2]],
            "long": {"x": torch.ones(2000)},
        }

    engine, log = lone(metrics=metrics), Log()
    with pytest.warns(mlopt.CapabilityWarning, match="left out of the logs") as warned:
        engine.run(steps=3, log_every=1, callbacks=[log], progress=False)
    assert len(warned) == 1
    said = str(warned[0].message)
    assert all(f"fit/{name} (a " in said for name in ("matrix", "object", "rows", "long/x"))
    assert "Tensor of shape (2, 3)" in said
    numbers = log.payload["log"][-1][2]
    for name in ("loss", "gradient_norm"):
        assert type(numbers.pop(f"fit/{name}")) is float
    assert numbers == {
        "fit/word": "a",
        "fit/none": None,
        "fit/flag": True,
        "fit/half": 1.0,
        "fit/list": [1, 2.0, 3.0],
        "fit/array": [0, 1, 2],
        "fit/nested/deep/x": [1.0, 1.0],
        "fit/nested/1": 0.5,
    }
    assert log.payload["step"][-1][2]["fit/object"] is print


def test_epoch_means_of_users_metrics():
    """Over the steps that updated the problem; of all that is a number, at any depth."""
    values = [0.0, 1.0, 5.0, 2.0, 2.0, 8.0]
    calls: list[int] = []

    def metrics():
        k = len(calls)
        calls.append(1)
        x = values[k]
        return {
            "a/b": torch.tensor(x, dtype=F64, requires_grad=True),
            "half": torch.tensor(x, dtype=torch.float16),
            "right": torch.tensor(x > 1),
            "plain": x,
            "nested": {"x": torch.tensor(int(x)), "word": "a"},
            "some": {} if x > 1 else {"x": x},
            "vector": torch.ones(3),
        }

    log, checked = Log(), []
    engine = lone(range(3), lambda: metrics() if checked else {})
    engine.plan()  # makes the first check
    checked.append(True)
    engine.run(epochs=2, callbacks=[log], log_every=100, progress=False)
    for (_, epoch, means), own in zip(log.payload["epoch"], (values[:3], values[3:]), strict=True):
        mean = sum(own) / 3
        assert type(means.pop("fit/loss")) is float
        some = means.pop("fit/some/x", None)
        assert some == (0.5 if epoch == 1 else None)
        assert means == {
            "fit/a/b": mean,
            "fit/half": mean,
            "fit/right": sum(x > 1 for x in own) / 3,
            "fit/plain": mean,
            "fit/nested/x": mean,
        }

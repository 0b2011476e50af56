"""Runs of an engine, and what observers are told."""

from __future__ import annotations

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


@pytest.mark.parametrize("progress", [True, False])
def test_progress_bar(capsys, progress):
    _, engine = metrics_case()
    engine.run(epochs=2, progress=progress)
    shown = capsys.readouterr()
    assert shown.out == ""
    if progress:
        assert "6/6" in shown.err
        assert "epoch 2" in shown.err
        assert "tune/loss" in shown.err
    else:
        assert shown.err == ""


def test_a_run_of_no_steps_checks_nothing_and_ends():
    _, engine = metrics_case()
    log = Log()
    engine.run(steps=0, callbacks=[log], progress=False)
    assert log.events == ["start", "end"]

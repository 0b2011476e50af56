"""Validation, early stopping and the best checkpoint: what they do, and where a run is resumed."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.test_checkpoint import Interrupt, made
from engine.test_preemption import Sends
from small import assert_same

import mlopt
from mlopt import BestCheckpoint, Checkpoint, EarlyStopping, SettingsError, Validation


class Told(mlopt.Callback):
    """Gives a curve as the validation, and notes what it is told; may fall at a step, in a hook."""

    def __init__(self, curve: list[float], at: int = -1, hook: str = "") -> None:
        self.curve, self.at, self.hook = curve, at, hook
        self.times = 0
        self.told: list[tuple[int, float]] = []

    def measure(self) -> dict[str, float]:
        self.times += 1
        return {"error": self.curve[self.times - 1], "other": 1.0}

    def _fall(self, engine: mlopt.Engine, hook: str) -> None:
        if (engine.steps, hook) == (self.at, self.hook):
            raise Interrupt

    def on_step(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        self._fall(engine, "on_step")

    def on_validation(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        self.told.append((engine.steps, metrics["error"]))
        self._fall(engine, "on_validation")

    def on_between(self, engine: mlopt.Engine) -> None:
        self._fall(engine, "on_between")

    def state_dict(self) -> dict[str, Any]:
        return {"times": self.times, "told": self.told}

    def load_state_dict(self, state: Any) -> None:
        self.times, self.told = state["times"], state["told"]


def saved(engine: mlopt.Engine) -> dict[str, Any]:
    """All but the seconds of the first step."""
    return {k: v for k, v in engine.state_dict().items() if k != "measurement"}


def run(folder: Path, told: Told, order: int = 0, steps: int = 20, **options: Any) -> Any:
    """A run with all of them; in one of two orders, which are to make no difference."""
    engine = made().engine()
    ready = [
        Validation(told.measure, steps=2),
        EarlyStopping("error", patience=3, min_delta=options.pop("min_delta", 0.0)),
        BestCheckpoint(folder / "best", "error"),
        Checkpoint(folder / "all", every=3),
    ]
    if order:
        ready = [ready[0], *reversed(ready[1:])]
    callbacks = [*ready[:order], told, *ready[order:]]
    options = {"resume": folder / "all", "progress": False, **options}
    engine.run(steps=steps, callbacks=callbacks, **options)
    best = next(c for c in ready if isinstance(c, BestCheckpoint))
    return engine, best


#: The best is the third value, at step 6, and three more at 8, 10 and 12 end the run.
CURVE = [3.0, math.nan, 1.0, 1.0, 2.0, 1.5, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_a_run_that_gets_no_better_ends_and_its_best_is_kept(tmp_path: Path) -> None:
    engine, best = run(tmp_path, told := Told(CURVE))
    assert engine.steps == 12
    assert told.told[-1] == (12, 1.5)
    assert (best.best, best.best_step) == (1.0, 6)
    assert [p.name for p in (tmp_path / "best").iterdir()] == ["step_0000000006.ckpt"]
    plain = made().engine()
    plain.run(steps=6, progress=False)
    best.restore(engine)
    assert_same(saved(plain), saved(engine))
    on, _ = run(tmp_path / "on", Told([0.0] * 20), resume=tmp_path / "best", steps=9)
    plain.run(steps=3, progress=False)
    assert_same(saved(plain), saved(on))


@pytest.mark.parametrize("order", [0, 2])
@pytest.mark.parametrize("hook", ["on_step", "on_validation", "on_between"])
@pytest.mark.parametrize("at", [2, 6, 7, 12])
def test_they_go_on_to_the_bit(tmp_path: Path, at: int, hook: str, order: int) -> None:
    expected, best = run(tmp_path / "whole", whole := Told(CURVE), order)
    validated = at % 2 == 0 or hook != "on_validation"
    if validated:
        with pytest.raises(Interrupt):
            run(tmp_path / "cut", Told(CURVE, at, hook), order)
    found, again = run(tmp_path / "cut", told := Told(CURVE), order)
    assert str(told.told) == str(whole.told)  # in which NaN is NaN
    assert (again.best, again.best_step) == (best.best, best.best_step)
    assert_same(saved(expected), saved(found))
    assert found.steps == expected.steps == 12
    kept = [[p.name for p in (tmp_path / n / "best").iterdir()] for n in ("whole", "cut")]
    assert kept == [["step_0000000006.ckpt"]] * 2
    best.restore(expected)
    again.restore(found)
    assert_same(saved(expected), saved(found))


def test_what_had_been_ended_stays_so(tmp_path: Path) -> None:
    run(tmp_path, Told(CURVE))
    engine, _ = run(tmp_path, told := Told(CURVE), steps=100)
    assert engine.steps == 12
    assert len(told.told) == 6


@pytest.mark.parametrize(
    ("options", "curve", "stopped"),
    [
        ({"patience": 2}, [3.0, 2.0, 1.0, 1.0, 1.0], 5),
        ({"patience": 1}, [math.inf, 1.0, 2.0], 3),
        ({"patience": 2, "mode": "max"}, [3.0, 2.0, 4.0, 4.0, 3.0], 5),
        ({"patience": 2, "min_delta": 0.5}, [3.0, 2.75, 2.5, 2.0], 3),
        ({"patience": 2, "min_delta": 0.5}, [3.0, 2.75, 2.25, 2.0, 2.0], 5),
        ({"patience": 2}, [math.nan, math.nan, 1.0], 2),
        ({"patience": 2}, [5.0, 4.0, 3.0, 2.0, 1.0, 0.0], 6),
    ],
)
def test_when_it_stops(options: dict[str, Any], curve: list[float], stopped: int) -> None:
    told, engine = Told(curve), made().engine()
    stop = EarlyStopping("error", **options)
    callbacks = [Validation(told.measure, steps=1), stop]
    engine.run(steps=len(curve), callbacks=callbacks, progress=False)
    assert engine.steps == stopped


def test_metrics_of_epochs_and_of_logging_steps_are_followed() -> None:
    """Of both the least is the last: the loss falls."""
    followed: list[Any] = [
        EarlyStopping("fit/loss", of="epoch"),
        EarlyStopping("fit/loss", of="log"),
    ]
    means: list[float] = []
    logs: list[float] = []

    class Notes(mlopt.Callback):
        def on_epoch(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
            means.append(metrics["fit/loss"])

        def on_log(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
            logs.append(metrics["fit/loss"])

    options: dict[str, Any] = {"log_every": 2, "progress": False}
    made().engine().run(epochs=3, callbacks=[*followed, Notes()], **options)
    assert [f.best for f in followed] == [min(means), min(logs)]
    assert len(logs) > len(means)


def test_validation_by_epochs_and_by_steps_is_told_to_all() -> None:
    seen: list[tuple[str, int, dict[str, Any]]] = []

    class Notes(mlopt.Callback):
        def on_validation(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
            seen.append(("callback", engine.steps, dict(metrics)))
            metrics.clear()  # which is nobody else's

    class Rows:
        def log(self, row: dict[str, Any]) -> None:
            if "a" in row or "b" in row:
                seen.append(("logger", row["step"], row))

        def close(self, status: str) -> None:
            pass

    made().engine().run(
        steps=7,  # an epoch has three
        callbacks=[
            Validation(lambda: {"a": 1.0}, steps=4),
            Notes(),
            Validation(lambda: {"b": 2.0}, epochs=2),
            Validation(lambda: None, steps=1),
        ],
        loggers=[Rows()],
        progress=False,
    )
    told = [what for what in seen if what[2]]
    assert told == [
        ("callback", 4, {"a": 1.0}),
        ("logger", 4, {"step": 4, "epoch": 1, "a": 1.0}),
        ("callback", 6, {"b": 2.0}),
        ("logger", 6, {"step": 6, "epoch": 2, "b": 2.0}),
    ]
    assert len(seen) - len(told) == 7


def test_a_metric_that_does_not_come_is_named_once() -> None:
    stop, engine = EarlyStopping("loss"), made().engine()
    with pytest.warns(
        mlopt.CapabilityWarning, match="EarlyStopping: metric='loss' .* validation so far: a, b/c"
    ) as warned:
        engine.run(
            steps=5,
            callbacks=[Validation(lambda: {"a": 1.0, "b": {"c": "word"}}, steps=2), stop],
            progress=False,
        )
    assert len(warned) == 1


def test_two_validations_of_one_step_are_looked_through_together() -> None:
    stop, engine = EarlyStopping("b", patience=2), made().engine()
    first = Validation(lambda: {"a": 1.0}, steps=1)
    second = Validation(lambda: {"b": torch.tensor(1.0)}, steps=1)
    engine.run(steps=9, callbacks=[stop, first, second], progress=False)
    assert engine.steps == 3


@pytest.mark.parametrize("options", [{}, {"steps": 1, "epochs": 1}])
def test_validation_is_by_steps_or_by_epochs(options: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="give either steps= or epochs="):
        Validation(dict, **options)


def test_a_validation_that_returns_no_dict_is_refused() -> None:
    calls: Any = lambda: 3  # noqa: E731
    with pytest.raises(SettingsError, match="Validation: function= returned a int"):
        made().engine().run(steps=1, callbacks=[Validation(calls, steps=1)], progress=False)


def test_the_best_of_another_run_is_not_overwritten(tmp_path: Path) -> None:
    run(tmp_path, Told(CURVE))
    before = {p.name: p.read_bytes() for p in (tmp_path / "best").iterdir()}
    with pytest.raises(SettingsError, match=r"BestCheckpoint: .* holds step_0000000006\.ckpt"):
        made().engine().run(
            steps=3, callbacks=[BestCheckpoint(tmp_path / "best", "error")], progress=False
        )
    assert {p.name: p.read_bytes() for p in (tmp_path / "best").iterdir()} == before
    other = mlopt.Engine(made().engine().graph.nodes, seed=1)
    with pytest.raises(SettingsError, match=r"step_0000000006\.ckpt.*seed"):
        other.run(
            steps=3, resume=tmp_path / "new", progress=False,
            callbacks=[BestCheckpoint(tmp_path / "best", "error")],
        )  # fmt: skip
    with pytest.raises(SettingsError, match="BestCheckpoint: metric='x'.*had 'error'"):
        made().engine().run(
            steps=30, resume=tmp_path / "all", progress=False,
            callbacks=[Told(CURVE), EarlyStopping("error"), BestCheckpoint(tmp_path / "b", "x")],
        )  # fmt: skip


def test_what_is_best_after_the_last_step_is_kept(tmp_path: Path) -> None:
    best, engine = BestCheckpoint(tmp_path, "error"), made().engine()
    told = Told([2.0, 1.0])
    engine.run(epochs=2, validate=told.measure, validate_every=2, callbacks=[best], progress=False)
    engine.run(steps=1, validate=told.measure, callbacks=[best], progress=False)
    assert (best.best, best.best_step) == (1.0, 7)
    assert [p.name for p in tmp_path.iterdir()] == ["step_0000000007.ckpt"]


@pytest.mark.parametrize("steps", [6, 7])  # an epoch has three
@pytest.mark.parametrize("hook", ["on_step", "on_between", "on_end"])
def test_a_run_that_is_interrupted_in_its_last_step_is_validated(
    tmp_path: Path, steps: int, hook: str
) -> None:
    """By the one that goes on, which takes no step; and not a second time."""

    def all_of(name: str, *more: mlopt.Callback) -> tuple[Told, BestCheckpoint]:
        told, best = Told([3.0, 2.0, 1.0, 0.0]), BestCheckpoint(tmp_path / name / "best", "error")
        callbacks = [told, best, EarlyStopping("error", patience=9), *more]
        made().engine().run(
            steps=steps, validate=told.measure, resume=tmp_path / name, progress=False,
            callbacks=[*callbacks, Checkpoint(tmp_path / name, every=5)],
        )  # fmt: skip
        return told, best

    expected, best = all_of("whole")
    with pytest.raises(mlopt.Interrupted):
        all_of("cut", Sends(steps, lambda: os.kill(os.getpid(), signal.SIGTERM), hook))
    told, again = all_of("cut")
    assert told.told == expected.told
    assert (again.best, again.best_step) == (best.best, best.best_step)
    kept = [[p.name for p in (tmp_path / n / "best").iterdir()] for n in ("whole", "cut")]
    assert kept == [[f"step_{steps:010d}.ckpt"]] * 2
    assert all_of("cut")[0].told == told.told


@pytest.mark.parametrize("kind", [EarlyStopping, BestCheckpoint])
def test_one_that_has_followed_another_engine_is_refused(tmp_path: Path, kind: Any) -> None:
    """It would end the second run by the values of the first, or call its best worse."""
    folder = [] if kind is EarlyStopping else [tmp_path / "best"]
    one, told = kind(*folder, "error"), Told(CURVE)
    callbacks = [told, one, Validation(told.measure, steps=1), Checkpoint(tmp_path / "all")]
    engine, other = made().engine(), made().engine()
    engine.run(steps=0, callbacks=[one], progress=False)
    other.run(steps=2, callbacks=callbacks, progress=False)  # it had seen nothing
    other.run(steps=1, callbacks=callbacks, progress=False)
    with pytest.raises(SettingsError, match=rf"{kind.__name__}: .* 'error' in the run of another"):
        engine.run(steps=1, callbacks=[one], progress=False)
    assert engine.steps == 0
    engine.run(steps=4, resume=tmp_path / "all", callbacks=callbacks, progress=False)
    assert (engine.steps, one.best) == (6, 1.0)  # from that engine's state and its own


def test_nothing_kept_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds nothing, for 'error' has not been measured"):
        BestCheckpoint(tmp_path, "error").restore(made().engine())

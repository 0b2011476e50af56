"""Checkpoints: a run that is interrupted and resumed is the run that was not."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import Bilevel, assert_same, bilevel, mlp, state_of
from torch.utils.data import DataLoader, TensorDataset

import mlopt
from mlopt import Checkpoint, SettingsError
from mlopt._engine import checkpoint
from mlopt._engine.checkpoint_files import write_checkpoint

X = torch.linspace(-1, 1, 33, dtype=torch.float64).reshape(11, 3)
Y = X.sum(1, keepdim=True).sin()


def made(**options: Any) -> Bilevel:
    """Two levels on shuffled data, with a scheduler, as a script makes them."""
    random.seed(0)
    np.random.seed(0)

    def loader() -> DataLoader:
        return DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True)

    found = bilevel(
        mlp(),
        optimizer=lambda v: torch.optim.Adam(v.parameters(), lr=0.05),
        train=options.pop("train", None) or loader(),
        valid=loader(),
        **options,
    )
    found.lower.scheduler = torch.optim.lr_scheduler.StepLR(found.lower.optimizer, 2)
    return found


class Interrupt(Exception):
    pass


class Counts(mlopt.Callback):
    """Counts what it is told, and stops the run or lets it fall at a step."""

    def __init__(self, at: int = -1, hook: str = "on_step") -> None:
        self.at, self.hook = at, hook
        self.told: dict[str, int] = {"steps": 0, "logs": 0, "epochs": 0}

    def _fall(self, engine: mlopt.Engine, hook: str) -> None:
        if engine.steps == self.at and hook == self.hook:
            raise Interrupt

    def on_step(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        self.told["steps"] += 1
        self._fall(engine, "on_step")

    def on_log(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        self.told["logs"] += 1
        self._fall(engine, "on_log")

    def on_epoch(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        self.told["epochs"] += 1

    def on_between(self, engine: mlopt.Engine) -> None:
        self._fall(engine, "on_between")

    def state_dict(self) -> dict[str, Any]:
        return dict(self.told)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.told = dict(state)


def run(folder: Path, counts: Counts, steps: int = 12, **options: Any) -> mlopt.Engine:
    engine = made().engine()
    saves = Checkpoint(folder, every=options.pop("every", 4), keep=2)
    engine.run(
        steps=steps,
        resume=folder,
        callbacks=[counts, saves],
        progress=False,
        log_every=3,
        **options,
    )
    return engine


@pytest.mark.parametrize("hook", ["on_step", "on_log", "on_between"])
@pytest.mark.parametrize("at", [3, 6, 9, 12])
def test_a_run_goes_on_from_its_last_checkpoint(tmp_path: Path, at: int, hook: str) -> None:
    whole = Counts()
    expected = run(tmp_path / "whole", whole)
    with pytest.raises(Interrupt):
        run(tmp_path / "cut", Counts(at, hook))
    again = Counts()
    found = run(tmp_path / "cut", again)
    assert found.steps == expected.steps == 12
    assert again.told == whole.told
    assert_same(state_of(expected), state_of(found))


def test_a_run_that_is_over_is_resumed_to_nothing_and_a_longer_one_goes_on(tmp_path: Path) -> None:
    run(tmp_path / "a", Counts(), steps=5)
    again = Counts()
    assert run(tmp_path / "a", again, steps=5).steps == 5
    assert again.told["steps"] == 5
    longer = run(tmp_path / "a", Counts(), steps=9)
    assert_same(state_of(run(tmp_path / "b", Counts(), steps=9)), state_of(longer))


def test_epochs_count_from_the_beginning(tmp_path: Path) -> None:
    def epochs(folder: Path, at: int) -> mlopt.Engine:
        engine = made().engine()
        callbacks = [Counts(at), Checkpoint(folder, every=1)]
        engine.run(epochs=3, resume=folder, callbacks=callbacks, progress=False)
        return engine

    with pytest.raises(Interrupt):
        epochs(tmp_path, 5)
    engine = epochs(tmp_path, -1)
    assert (engine.steps, engine.epoch) == (9, 3)


def test_the_newest_stay_and_nothing_else_is_touched(tmp_path: Path) -> None:
    tmp_path.joinpath("notes.txt").write_text("mine")
    run(tmp_path, Counts(), every=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "notes.txt",
        "step_0000000010.ckpt",
        "step_0000000012.ckpt",
    ]


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    at = len(data) // 3
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


@pytest.mark.parametrize("harm", [cut, flipped, lambda data: b"", lambda data: b"PK" + data])
def test_a_damaged_one_is_passed_over_by_name(
    tmp_path: Path, harm: Callable[[bytes], bytes]
) -> None:
    expected = run(tmp_path / "whole", Counts())
    with pytest.raises(Interrupt):
        run(tmp_path / "cut", Counts(10))
    newest = tmp_path / "cut" / "step_0000000008.ckpt"
    newest.write_bytes(harm(newest.read_bytes()))
    with pytest.warns(mlopt.CapabilityWarning, match="step_0000000008.*step_0000000004"):
        found = run(tmp_path / "cut", Counts())
    assert_same(state_of(expected), state_of(found))


def test_if_all_are_damaged_it_is_said_and_nothing_begins(tmp_path: Path) -> None:
    run(tmp_path, Counts())
    for path in tmp_path.glob("*.ckpt"):
        path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(SettingsError, match="No checkpoint before it is left"):
        run(tmp_path, Counts())
    assert len([*tmp_path.glob("*.ckpt")]) == 2


class Other:
    """Runs that are another one than `made`, and what is said of them."""

    def wider(self) -> mlopt.Engine:
        found = made()
        found.lower.optimizer = torch.optim.SGD(found.W.parameters(), lr=0.1)
        found.lower.scheduler = None
        return found.engine()

    def data(self) -> mlopt.Engine:
        return made(train=[(X, Y)]).engine()

    def seed(self) -> mlopt.Engine:
        return made().engine(seed=3)

    def method(self) -> mlopt.Engine:
        return made(hypergrad=mlopt.OneStep()).engine()

    def parts(self) -> mlopt.Engine:
        return made().engine(parts=3)


@pytest.mark.parametrize(
    ("name", "part", "text"),
    [
        ("wider", "optimizers", r"fit is Adam with StepLR in it, not SGD"),
        ("data", "data", r"loader 1 is DataLoader over TensorDataset, batches=3.* not list"),
        ("seed", "seed", r"seed is 0 in it, not 3"),
        ("parts", "parts", r"parts is 1 in it, not 3"),
        ("method", "graph", r"fit is problem of .*Central.* in it, not .*OneStep\(\)"),
    ],
)
def test_another_run_is_refused_with_the_difference(
    tmp_path: Path, name: str, part: str, text: str
) -> None:
    run(tmp_path, Counts())
    engine = getattr(Other(), name)()
    before = state_of(engine)
    with pytest.raises(SettingsError, match=text) as refused:
        engine.run(steps=20, resume=tmp_path, progress=False, callbacks=[Counts()])
    assert part in str(refused.value)
    assert_same(before, state_of(engine))
    if part in ("seed", "parts"):  # which may differ where that is said
        engine.run(steps=13, resume=tmp_path, override=[part], progress=False, callbacks=[Counts()])
        assert engine.steps == 13


def test_what_a_folder_holds_is_not_mixed_with_a_new_run(tmp_path: Path) -> None:
    run(tmp_path, Counts())
    with pytest.raises(SettingsError, match=r"earlier run.*resume="):
        made().engine().run(steps=3, callbacks=[Checkpoint(tmp_path)], progress=False)
    run(tmp_path, Counts())  # whose lock has been given back


def test_one_run_at_a_time(tmp_path: Path) -> None:
    class Second(mlopt.Callback):
        def on_step(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
            with pytest.raises(SettingsError, match="this process already writes to it"):
                run(tmp_path, Counts())

    callbacks = [Checkpoint(tmp_path, every=1), Second()]
    made().engine().run(steps=1, callbacks=callbacks, progress=False)


def test_no_callback_without_its_state(tmp_path: Path) -> None:
    run(tmp_path, Counts())
    with pytest.raises(SettingsError, match="holds the state of Counts"):
        made().engine().run(steps=13, resume=tmp_path, progress=False)


@pytest.mark.parametrize("options", [{"every": 0}, {"keep": 0}, {"every": 1.5}, {"folder": 3}])
def test_arguments_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Checkpoint(**{"folder": "x", **options})


@pytest.mark.parametrize("override", ["seed", ["loss"], 3])
def test_what_may_differ_is_checked(override: Any) -> None:
    with pytest.raises(SettingsError, match="override"):
        made().engine().run(steps=1, resume="x", override=override, progress=False)


def test_nothing_is_run_that_a_file_holds(tmp_path: Path) -> None:
    """A file of somebody else's: an object that would call a function when it is read."""

    class Bomb:
        def __reduce__(self) -> Any:
            return print, ("gone off",)

    write_checkpoint(tmp_path, 3, {"engine": Bomb()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SettingsError, match="is no checkpoint of an engine"):
            run(tmp_path, Counts())


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 3, {"engine": made().engine().state_dict()})
    with pytest.raises(SettingsError, match="fingerprint, began, validated, callbacks is not in"):
        run(tmp_path, Counts())


def test_a_folder_has_many_names(tmp_path: Path) -> None:
    run(tmp_path, Counts(), steps=3)
    other = tmp_path / ".." / tmp_path.name
    engine = made().engine()
    saves = [Counts(), Checkpoint(other, every=1)]
    engine.run(steps=4, resume=tmp_path, callbacks=saves, progress=False)
    assert engine.steps == 4


def test_a_checkpoint_of_another_version_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before could be read: a run that goes on from it would overwrite the newer."""
    run(tmp_path, Counts(), steps=4)
    monkeypatch.setattr("mlopt._engine.checkpoint_files.FORMAT", 7)
    write_checkpoint(tmp_path, 5, {})
    monkeypatch.undo()
    with pytest.raises(SettingsError, match=r"step_0000000005.*format 7, .*reads 1.*version of"):
        run(tmp_path, Counts())
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step_0000000004.ckpt", "step_0000000005.ckpt",
    ]  # fmt: skip


def test_saving_may_go_by_the_time_that_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes 3 s here, and saving after it 0.1 s: so 10 s are between two of them."""

    class Clock:
        now = 0.0

        def perf_counter(self) -> float:
            return self.now

    clock, saved = Clock(), []
    monkeypatch.setattr(checkpoint, "time", clock)

    def slowly(folder: Path, step: int, content: Any, sharded: None) -> None:
        clock.now += 0.1
        saved.append(step)

    monkeypatch.setattr(checkpoint, "write_checkpoint", slowly)

    class Slow(mlopt.Callback):
        def on_step(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
            clock.now += 3.0

    callbacks = [Slow(), Checkpoint(tmp_path, every=None)]
    made().engine().run(steps=11, callbacks=callbacks, progress=False)
    assert saved == [1, 5, 9, 11]

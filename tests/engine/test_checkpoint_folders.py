"""Whose the files in a folder of checkpoints are, and which of them stay."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from engine.test_checkpoint import Counts, made, run
from small import assert_same, state_of

import mlopt
from mlopt import CapabilityWarning, Checkpoint, SettingsError


@pytest.mark.parametrize("keep", [1, 2])
def test_what_was_passed_over_makes_way(tmp_path: Path, keep: int) -> None:
    """A damaged file with a later number is none of those that stay, and is not gone on with."""
    made().engine().run(steps=6, callbacks=[Checkpoint(tmp_path, every=3)], progress=False)
    (tmp_path / "step_0000000006.ckpt").write_bytes(b"no")

    def on(steps: int) -> mlopt.Engine:
        engine, saves = made().engine(), Checkpoint(tmp_path, every=1, keep=keep)
        engine.run(steps=steps, resume=tmp_path, callbacks=[saves], progress=False)
        return engine

    with pytest.warns(CapabilityWarning, match=r"goes on from step_0000000003\.ckpt"):
        on(5)
    expected = ["step_0000000004.ckpt", "step_0000000005.ckpt"][-keep:]
    assert sorted(p.name for p in tmp_path.iterdir()) == expected
    whole = made().engine()
    whole.run(steps=9, progress=False)
    assert_same(state_of(whole), state_of(on(9)))


@pytest.mark.parametrize("inside", [True, False])
def test_a_run_that_goes_back_is_resumed_from_where_it_went(tmp_path: Path, inside: bool) -> None:
    """The steps that were taken back have later numbers."""
    engine, saves = made().engine(), Checkpoint(tmp_path, every=1, keep=2)
    engine.run(steps=2, callbacks=[saves], progress=False)
    state = engine.state_dict()

    class Back(mlopt.Callback):
        def on_step(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
            if inside and engine.steps == 6:
                self.on_step = lambda *_: None  # type: ignore[method-assign]
                engine.load_state_dict(state)
                engine.stop()

    engine.run(steps=4, callbacks=[saves, Back()], progress=False)
    if not inside:
        engine.load_state_dict(state)
    for group in engine.graph.problems[0].optimizer.param_groups:  # type: ignore[union-attr]
        group["lr"] = 0.5  # another way from here on
    engine.run(steps=2, callbacks=[saves], progress=False)
    assert sorted(int(p.stem[5:]) for p in tmp_path.iterdir()) == [3, 4]
    other = made().engine()
    other.run(steps=2, resume=tmp_path, progress=False)  # from where that run began
    engine.step()
    other.step()
    assert_same(state_of(engine), state_of(other))


def test_a_checkpoint_that_has_served_another_engine_is_a_new_one(tmp_path: Path) -> None:
    saves, first = Checkpoint(tmp_path), made().engine()
    first.run(steps=3, callbacks=[saves], progress=False)
    before = [p.read_bytes() for p in tmp_path.iterdir()]
    with pytest.raises(SettingsError, match=r"earlier run.*resume="):
        made().engine(seed=1).run(steps=2, callbacks=[saves], progress=False)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == before
    made().engine().run(steps=5, resume=tmp_path, callbacks=[saves], progress=False)
    with pytest.raises(SettingsError, match=r"earlier run.*resume="):  # it is the other's since
        first.run(steps=1, callbacks=[saves], progress=False)


def test_steps_between_two_runs_are_saved_before_they_are_said_to_be(tmp_path: Path) -> None:
    saves, engine = Checkpoint(tmp_path), made().engine()
    engine.run(steps=3, callbacks=[saves], progress=False)
    engine.step()

    class Sends(mlopt.Callback):
        def on_start(self, engine: mlopt.Engine) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(mlopt.Interrupted, match=r"after 4 steps, saved in"):
        engine.run(steps=3, callbacks=[saves, Sends()], progress=False)
    other = made().engine()
    other.run(steps=0, resume=tmp_path, progress=False)
    engine.step()
    other.step()
    assert_same(state_of(engine), state_of(other))


def test_a_file_is_no_folder_of_checkpoints(tmp_path: Path) -> None:
    """Not even one of its checkpoints: the run would begin anew, without a word."""
    run(tmp_path / "a", Counts())
    (tmp_path / "other").write_text("mine")
    best = mlopt.BestCheckpoint(tmp_path / "other", "error")
    for file in (tmp_path / "other", next((tmp_path / "a").iterdir())):
        with pytest.raises(SettingsError, match="is a file, .* Give the folder .*") as refused:
            run(file, Counts())
        assert repr(str(file.parent)) in str(refused.value)
    with pytest.raises(SettingsError, match="A part of it is a file"):
        run(tmp_path / "other" / "b", Counts())
    with pytest.raises(SettingsError, match="is a file"):
        best.restore(made().engine())

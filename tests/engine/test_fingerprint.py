"""What a run is of is the same in each process, whatever becomes of its engine and its files."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.memory_graphs import game
from engine.test_checkpoint import made
from functions import SquareOnce
from small import assert_same, state_of
from torch.nn.functional import mse_loss

import mlopt
from mlopt import Checkpoint, SettingsError


def once() -> mlopt.Engine:
    """A level that cannot be differentiated twice: its method takes differences instead."""
    found = made()

    @mlopt.problem(
        over=found.W,
        given=[found.A],
        data=found.train,
        optimizer=found.lower.optimizer,
        hypergrad=mlopt.OneStep(),
    )
    def fit(w: Any, a: torch.Tensor, batch: Any) -> torch.Tensor:
        x, y = batch
        return mse_loss(SquareOnce.apply(w(x * a.exp())), y)

    return mlopt.Engine([fit, found.upper])


class Order(mlopt.AbstractSchedule):
    """One of a user's own, which does not say how it is shown."""

    def check(self, graph: Any) -> None:
        pass

    def compose(self, builder: Any, active: Any) -> None:
        mlopt.Simultaneous().compose(builder, active)


def ordered() -> mlopt.Engine:
    return made().engine(schedule=Order())


@pytest.mark.parametrize("make", [once, ordered])
@pytest.mark.filterwarnings("ignore::mlopt.CapabilityWarning")  # of differences that are taken
def test_the_same_engine_made_anew_goes_on(tmp_path: Path, make: Callable[[], Any]) -> None:
    first = make()
    first.run(steps=2, callbacks=[Checkpoint(tmp_path)], progress=False)
    first.run(steps=2, progress=False)
    other = make()
    other.run(steps=4, resume=tmp_path, progress=False)
    assert_same(state_of(first), state_of(other))


def test_another_play_is_another_run(tmp_path: Path) -> None:
    def together(first: Any, second: Any) -> Any:
        return mlopt.games.Simultaneous()

    def in_turn(first: Any, second: Any) -> Any:
        return mlopt.games.Alternating((first, 1), (second, 1))

    game(together).run(steps=2, callbacks=[Checkpoint(tmp_path)], progress=False)
    with pytest.raises(SettingsError, match=r"in a game by Simultaneous.* not .*Alternating"):
        game(in_turn).run(steps=3, resume=tmp_path, progress=False)


SCRIPT = """
import mlopt
from engine.test_checkpoint import made

def engine():
    found = made()

    @mlopt.problem(over=found.A, given=[found.W], data=found.valid, optimizer=found.upper.optimizer)
    def tune(a, w, batch):
        return (w(batch[0]) - batch[1]).square().mean() + a.square().sum()

    return mlopt.Engine([found.lower, tune])
"""


@pytest.mark.parametrize("edited", [False, True])
def test_a_script_that_is_edited_while_it_runs(tmp_path: Path, edited: bool) -> None:
    """A checkpoint is of the functions that run, and not of the lines that stand there now."""
    file, folder = tmp_path / "script.py", tmp_path / "run"
    file.write_text(SCRIPT)
    text = SCRIPT.replace("+ a", "+ 2 * a") if edited else "# Notes.\n\n" + SCRIPT

    class Edits(mlopt.Callback):
        def on_step(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
            file.write_text(text)

    def engine() -> mlopt.Engine:
        found = importlib.util.spec_from_file_location("script", file)
        assert found is not None
        assert found.loader is not None
        script = importlib.util.module_from_spec(found)
        found.loader.exec_module(script)
        return script.engine()

    engine().run(steps=2, callbacks=[Edits(), Checkpoint(folder)], progress=False)
    if edited:
        with pytest.raises(SettingsError, match="the function of tune has been edited"):
            engine().run(steps=3, resume=folder, progress=False)
    else:
        engine().run(steps=3, resume=folder, progress=False)

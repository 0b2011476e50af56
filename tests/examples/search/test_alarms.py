"""Alarms of a search: when they are raised, and how they end it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import exact, rounding
from examples.small_runs import TINY, ready, search_epochs

import darts
import mlopt
from mlopt.nas import Alarm
from mlopt.report import RunFolder
from support import pipeline, settings
from support.search import alarms, run_search


def vector(search: Any) -> torch.Tensor:
    """What the only learner of a search has learned."""
    parameters = search.learners[0].architecture.parameters()
    return torch.nn.utils.parameters_to_vector(parameters).detach()


class Skips:
    """A monitor that finds a collapse at given looks, counted from 1."""

    def __init__(self, *looks: int) -> None:
        self.looks, self.seen = looks, 0

    def alarms(self, measures: Any) -> list[Alarm]:
        self.seen += 1
        return [Alarm("skips", "too many skips")] if self.seen in self.looks else []


@pytest.mark.parametrize(
    ("collapses", "stop", "epochs", "kept"),
    [((3,), True, 3, 2), ((1,), True, 1, 1), ((3,), False, 4, 4), ((), True, 4, 4)],
)
def test_a_collapse_may_end_a_search(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    collapses: tuple[int, ...],
    stop: bool,
    epochs: int,
    kept: int,
) -> None:
    """The architecture is then that of the last epoch without a collapse, if there was one."""
    monkeypatch.setattr(alarms, "MONITOR", Skips(*collapses))
    flag = ("--stop-on-collapse",) if stop else ()
    search, loaders, data, s = ready(tmp_path, darts, "--epochs", "4", "--arch-lr", "0.1", *flag)
    states: list[torch.Tensor] = []

    class Record(mlopt.Callback):
        def on_validation(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
            states.append(vector(search).clone())

    search.callbacks = [Record()]
    with RunFolder.create(tmp_path / "run", {}) as folder:
        run_search(search, loaders, folder, data, s)
        logged = search_epochs(folder)
    assert len(logged) == len(states) == epochs
    assert torch.equal(vector(search), states[kept - 1])
    assert len({tuple(state.tolist()) for state in states}) == epochs
    assert search.validation["validation/loss"] == logged[kept - 1]["validation/loss"]
    expected = [["too many skips"] if k in collapses else [] for k in range(1, epochs + 1)]
    assert [row["alarms"] for row in logged] == expected
    if not (stop and collapses):
        assert search.spent.notes == []
        return
    (note,) = search.spent.notes
    assert note.startswith(f"The search ended early, after epoch {epochs}: too many skips.")
    assert note.endswith(f"epoch {kept}." if kept < epochs else "that of this epoch.")


def test_alarms_wait_for_the_first_update_of_the_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alarms, "MONITOR", Skips(1))
    search, loaders, data, s = ready(
        tmp_path, darts, "--pretrain", "1", "--epochs", "3", "--warmup", "1", "--stop-on-collapse"
    )
    with RunFolder.create(tmp_path / "run", {}) as folder:
        run_search(search, loaders, folder, data, s)
        assert [row["alarms"] for row in search_epochs(folder)] == [[], [], ["too many skips"]]


def test_an_early_end_is_in_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarms, "MONITOR", Skips(2))
    s = settings.parse(
        None,
        [*TINY, "--epochs", "3", "--stop-on-collapse", "--run-folder", str(tmp_path / "run")],
    )
    pipeline.run("darts", darts.scheme, s)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert any("ended early, after epoch 2" in note for note in result["notes"])
    text = (tmp_path / "run" / "report.html").read_text()
    assert "Epoch 2 (the last): too many skips." in text


def test_the_gap_is_that_of_the_two_halves(tmp_path: Path) -> None:
    search, loaders, data, s = ready(tmp_path, darts)
    with RunFolder.create(tmp_path / "run", {}) as folder:
        run_search(search, loaders, folder, data, s)
        (row,) = search_epochs(folder)
    training = float(search.engine.clock.means["weights/loss"])
    exact(row["gap"], row["validation/loss"] - training, rounding(20), scale=training)


def test_a_search_that_a_collapse_has_ended_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed after its end, and at the epoch before, it is what it was."""
    line = ["--epochs", "4", "--arch-lr", "0.1", "--stop-on-collapse", "--checkpoint-every", "1"]
    found = []
    for kept in (3, 3, 2):  # checkpoints, one an epoch: at first none
        monitor = Skips(3)
        monkeypatch.setattr(alarms, "MONITOR", monitor)
        checkpoints = tmp_path / "run" / "checkpoints"
        if checkpoints.exists() and kept == 2:
            (checkpoints / "step_0000000003.ckpt").unlink()
            monitor.seen = kept
        search, loaders, data, s = ready(tmp_path, darts, *line)
        begun = (tmp_path / "run").exists()
        run = RunFolder.open if begun else partial(RunFolder.create, settings={})
        with run(tmp_path / "run") as folder:
            run_search(search, loaders, folder, data, s)
            logged = search_epochs(folder)
        spent = search.spent
        found.append((vector(search).tolist(), spent.notes, spent.steps, spent.passes, logged))
        assert search.engine.steps == 3
    assert found[0] == found[1] == found[2]
    (note,) = found[0][1]
    assert note.endswith("The result is that of epoch 2.")

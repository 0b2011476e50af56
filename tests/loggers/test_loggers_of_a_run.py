"""Loggers of `Engine.run`: one that fails, how they learn of the end, what is none."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from loggers.test_services import engine, run
from small import bilevel

import mlopt
from mlopt.loggers import Console, JsonlLogger, Several, read_jsonl


class Fails:
    """A logger of one's own, whose service goes away."""

    def __init__(self, at: int, how: str = "log") -> None:
        self.at, self.how, self.told = at, how, []

    def log(self, row: dict[str, Any]) -> None:
        self.told.append(row["step"])
        if self.how == "log" and row["step"] >= self.at:
            raise ConnectionError("gone")

    def close(self, status: str) -> None:
        self.told.append(status)
        if self.how == "close":
            raise ConnectionError("gone")


@pytest.mark.parametrize(("how", "told"), [("log", [2, 4]), ("close", [2, 4, 6, "finished"])])
def test_one_that_fails_is_left_out_and_the_run_goes_on(how: str, told: list[Any]) -> None:
    whole = bilevel()
    whole.engine().run(steps=6, progress=False)
    case, fails, other = bilevel(), Fails(3, how), Fails(100)
    # an epoch's end is logged, too: so that there is none
    engine = mlopt.Engine([case.lower, case.upper])
    engine._epoch_stream = None
    with pytest.warns(mlopt.CapabilityWarning, match=rf"Fails.{how}\(\) failed.*gone") as warned:
        engine.run(steps=6, log_every=2, loggers=[fails, other], progress=False)
    assert len(warned) == 1
    assert fails.told == told
    assert other.told == [2, 4, 6, "finished"]
    assert all(map(torch.equal, whole.W.parameters(), case.W.parameters()))


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "interrupted"),
                                               (ValueError, "failed")])  # fmt: skip
def test_loggers_learn_how_a_run_has_ended(error: type[BaseException], status: str) -> None:
    logger = Fails(100)

    class Falls(mlopt.Callback):
        def on_step(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
            raise error

    with pytest.raises(error):
        engine().run(steps=1, callbacks=[Falls()], loggers=[logger], progress=False)
    assert logger.told == [status]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_all_loggers_be_closed(number: signal.Signals) -> None:
    """One that sends what it has may take long to be closed."""
    told: list[Any] = []

    class Closes:
        def __init__(self, name: str) -> None:
            self.name = name

        def log(self, row: dict[str, Any]) -> None:
            pass

        def log_image(self, row: dict[str, Any], name: str, image: Any) -> None:
            pass

        def close(self, status: str) -> None:
            if self.name == "first":
                os.kill(os.getpid(), number)
            told.append((self.name, status))

    with pytest.raises(mlopt.Interrupted, match=f"ended by {number.name} after 6 steps"):
        run(Closes("first"), Closes("second"))
    assert told == [("first", "finished"), ("second", "finished")]


def test_a_row_is_its_loggers_own() -> None:
    rows: list[dict[str, Any]] = []

    class Takes:
        def log(self, row: dict[str, Any]) -> None:
            rows.append(dict(row))
            row.clear()

        log_image = lambda *_: None  # noqa: E731

        def close(self, status: str) -> None:
            pass

    run(Takes(), Takes())
    assert rows[::2] == rows[1::2]
    assert all(row["step"] for row in rows)
    rows.clear()
    Several([Takes(), Takes()]).log(row := {"step": 1})
    assert rows == [row, row] == [{"step": 1}] * 2


@pytest.mark.parametrize("logger", [3, Fails, object(), mlopt.Callback()])
def test_what_is_no_logger_is_refused(logger: Any) -> None:
    with pytest.raises(mlopt.SettingsError, match=r"loggers= holds .*log\(row\) and close"):
        engine().run(steps=1, loggers=[logger], progress=False)
    with pytest.raises(mlopt.SettingsError, match=r"loggers= takes a list"):
        engine().run(steps=1, loggers=Fails(1), progress=False)  # type: ignore[arg-type]
    with pytest.raises(mlopt.SettingsError, match=r"Several: loggers= holds"):
        Several([logger])


def test_several_are_one(tmp_path: Path) -> None:
    fails, other = Fails(2), Fails(100)
    both = Several([fails, other, JsonlLogger(tmp_path / "a.jsonl")])
    both.log({"step": 1})
    with pytest.warns(mlopt.CapabilityWarning, match="gone"):
        both.log({"step": 2})
    both.log_file(tmp_path)  # nobody keeps files
    both.close("failed")
    assert (fails.told, other.told) == ([1, 2], [1, 2, "failed"])
    assert read_jsonl(tmp_path / "a.jsonl") == [{"step": 1}, {"step": 2}]


def test_the_console_shows_a_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.log({"step": 3, "epoch": 1, "fit/loss": 0.123456, "of": {"n": 12}, "none": None})
    console.log({"phase": "retrain", "epoch": 2, "list": list(range(9)), "word": "good"})
    console.log({"step": 4, "matrix": torch.zeros(2, 5)})
    console.log({"step": 5})
    Console(only=["loss"]).log({"loss": math.nan, "error": 1.0})
    console.close("interrupted")
    assert capsys.readouterr().out.splitlines() == [
        "step 3, epoch 1: fit/loss 0.1235, of/n 12",
        "retrain, epoch 2: list [0, 1, 2, 3, ... (9)], word good",
        "step 4: matrix [2 lists]",
        "loss NaN",
        "The run was interrupted.",
    ]

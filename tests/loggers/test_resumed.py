"""The loggers of a run that is resumed have each row once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import bilevel

import mlopt
from mlopt._engine.checkpoint_files import newest, write_checkpoint
from mlopt._files import Lock
from mlopt.loggers import JsonlLogger, Several, TensorBoard, read_jsonl


class Killed(Exception):
    """What ends a run where it cannot be saved."""


class Falls(mlopt.Callback):
    """Ends a run after what a step logs, and before it is saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_between(self, engine: mlopt.Engine) -> None:
        if engine.steps == self.step:
            raise Killed


class Numbers:
    """A logger of one's own, which counts its rows; `bad` is a state that it cannot take."""

    def __init__(self, bad: object = None) -> None:
        self.rows: list[dict[str, Any]] = []
        self.bad, self.given = bad, None

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def close(self, status: str) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.bad or len(self.rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.given = state["rows"]
        if self.given == "bad":
            raise ConnectionError("gone")


def go(folder: Path | None, *loggers: Any, until: int = 11, fall: int = 0, **more: Any) -> None:
    """A run with a checkpoint each three steps, resumed if it was begun."""
    saving = [] if folder is None else [mlopt.Checkpoint(folder, every=3)]
    options: Any = {"log_every": 1, "progress": False, "resume": folder, **more}
    bilevel().engine().run(
        steps=until, callbacks=[Falls(fall), *saving], loggers=loggers, **options
    )


def broken_off(folder: Path, *loggers: Any) -> None:
    """One that has logged eight steps, of which six are saved."""
    with pytest.raises(Killed):
        go(folder, *loggers, fall=8)


def test_each_row_is_once_in_the_file(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.jsonl", tmp_path / "metrics.jsonl"
    path.write_text('{"step": 99}\n')  # of an earlier run
    go(None, JsonlLogger(whole))
    broken_off(tmp_path / "run", JsonlLogger(path))
    assert read_jsonl(path)[-1]["step"] == 8
    for until in (11, 11):  # and where nothing is left to do
        go(tmp_path / "run", JsonlLogger(path), until=until)
        assert read_jsonl(path) == [{"step": 99}, *read_jsonl(whole)]


@pytest.mark.parametrize(
    "words", ["", '{"step": 1, "of": "another run, whose rows are long"}\n' * 99]
)
def test_another_file_is_only_added_to(tmp_path: Path, words: str) -> None:
    broken_off(tmp_path / "run", JsonlLogger(tmp_path / "metrics.jsonl"))
    other = tmp_path / "other.jsonl"
    other.write_text(words)
    go(tmp_path / "run", JsonlLogger(other))
    assert other.read_text().startswith(words)
    rows = read_jsonl(other)[words.count("\n") :]
    assert rows[0]["step"] == 7


def test_what_another_run_has_added_stays(tmp_path: Path) -> None:
    """Two runs write to one file, one after another; the first is resumed."""
    shared, alone = tmp_path / "shared.jsonl", tmp_path / "alone.jsonl"
    broken_off(tmp_path / "run", JsonlLogger(shared))
    go(None, JsonlLogger(shared))
    go(None, JsonlLogger(alone))
    before = read_jsonl(shared)
    assert before[-len(read_jsonl(alone)) :] == read_jsonl(alone)
    go(tmp_path / "run", JsonlLogger(shared))
    rows = read_jsonl(shared)
    assert rows[: len(before)] == before
    assert rows[len(before)]["step"] == 7


def test_a_checkpoint_without_rows_is_of_its_own_file(tmp_path: Path) -> None:
    """Every file begins with the nothing that was logged at step 3."""
    own, other = tmp_path / "own.jsonl", tmp_path / "other.jsonl"
    go(None, JsonlLogger(other))
    before = read_jsonl(other)

    def resume(path: Path, fall: int = 0) -> None:
        go(tmp_path / "run", JsonlLogger(path), fall=fall, log_every=4)

    with pytest.raises(Killed):
        resume(own, fall=4)
    assert [row["step"] for row in read_jsonl(own)] == [4]
    with pytest.raises(Killed):
        resume(other, fall=4)
    assert read_jsonl(other)[: len(before)] == before
    resume(own)
    assert [row["step"] for row in read_jsonl(own) if "fit/loss" in row] == [4, 5, 8, 10]


def test_with_other_loggers_the_run_goes_on(tmp_path: Path) -> None:
    broken_off(tmp_path / "run", JsonlLogger(tmp_path / "metrics.jsonl"))
    counts = Numbers()
    go(tmp_path / "run", counts)
    assert counts.given is None
    assert counts.rows[0]["step"] == 7


def test_a_run_that_is_refused_takes_no_row_back(tmp_path: Path) -> None:
    """Another process goes on in that folder, and logs there."""
    broken_off(tmp_path / "run", JsonlLogger(tmp_path / "metrics.jsonl"), Numbers())
    counts = Numbers()
    with (
        Lock(tmp_path / "run" / ".lock", tmp_path / "run"),
        pytest.raises(mlopt.SettingsError, match="writes to it"),
    ):
        go(tmp_path / "run", counts)
    assert counts.given is None
    go(tmp_path / "run", counts)
    assert counts.given is not None


def test_a_checkpoint_of_before_loggers_had_states(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    broken_off(tmp_path / "run", JsonlLogger(path))
    saved, content = newest(tmp_path / "run") or (path, {})
    del content["loggers"]
    write_checkpoint(saved.parent, 6, content)
    before = read_jsonl(path)
    go(tmp_path / "run", JsonlLogger(path))
    rows = read_jsonl(path)
    assert rows[: len(before)] == before
    assert rows[len(before)]["step"] == 7


def test_two_of_a_kind_have_states_of_their_own(tmp_path: Path) -> None:
    paths = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    paths[0].write_text('{"step": 99}\n')
    broken_off(tmp_path / "run", *map(JsonlLogger, paths))
    go(tmp_path / "run", *map(JsonlLogger, paths))
    assert read_jsonl(paths[0])[1:] == read_jsonl(paths[1])
    steps = [row["step"] for row in read_jsonl(paths[1]) if "fit/loss" in row]
    assert steps == [*range(1, 12)]


def test_the_state_of_one_is_its_own_though_another_has_failed(tmp_path: Path) -> None:
    first, second = Numbers(), Numbers()
    first.log = lambda row: 1 / 0  # type: ignore[assignment]
    with pytest.warns(mlopt.CapabilityWarning, match=r"Numbers.log\(\) failed"):
        broken_off(tmp_path / "run", first, second)
    again = Numbers(), Numbers()
    go(tmp_path / "run", *again)
    assert again[0].given is None
    assert again[1].given is not None


def test_several_in_one_go_back_each(tmp_path: Path) -> None:
    whole, paths = tmp_path / "whole.jsonl", [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    go(None, JsonlLogger(whole))
    broken_off(tmp_path / "run", Several([*map(JsonlLogger, paths), Numbers()]))
    go(tmp_path / "run", Several([*map(JsonlLogger, paths)]))
    assert all(read_jsonl(path) == read_jsonl(whole) for path in paths)


@pytest.mark.parametrize(("bad", "method"), [(object(), "state_dict"), ("bad", "load_state_dict")])
def test_one_whose_state_fails_is_left_out(tmp_path: Path, bad: object, method: str) -> None:
    first, path = Numbers(bad), tmp_path / "metrics.jsonl"
    if method == "state_dict":
        with pytest.warns(mlopt.CapabilityWarning, match=r"Numbers.state_dict\(\) failed"):
            broken_off(tmp_path / "run", first, JsonlLogger(path))
        assert [row["step"] for row in first.rows if "fit/loss" in row] == [1, 2, 3]
        go(tmp_path / "run", JsonlLogger(path))
    else:
        broken_off(tmp_path / "run", first, JsonlLogger(path))
        second = Numbers()
        with pytest.warns(mlopt.CapabilityWarning, match=r"Numbers.load_state_dict\(\) failed"):
            go(tmp_path / "run", second, JsonlLogger(path))
        assert second.rows == []
    assert [row["step"] for row in read_jsonl(path) if "fit/loss" in row] == [*range(1, 12)]


@pytest.mark.parametrize("together", [False, True])
def test_methods_of_another_use_are_let_alone(tmp_path: Path, together: bool) -> None:
    """One that is given rows to the end, though its methods of these names are others."""

    class Asks(Numbers):
        def state_dict(self, prefix: str) -> dict[str, Any]:  # type: ignore[override]
            raise AssertionError

        def load_state_dict(self, state: Any, strict: bool) -> None:  # type: ignore[override]
            raise AssertionError

    class Half(Numbers):
        state_dict = None  # type: ignore[assignment]

    loggers = Numbers(), Asks(), Half()
    broken_off(tmp_path / "run", *([Several(loggers)] if together else loggers))
    assert loggers[0].rows == loggers[1].rows == loggers[2].rows
    loggers = Numbers(), Asks(), Half()
    go(tmp_path / "run", *([Several(loggers)] if together else loggers))
    assert [logger.given for logger in loggers] == [7, None, None]
    assert loggers[0].rows == loggers[1].rows == loggers[2].rows


def test_a_network_may_be_a_logger(tmp_path: Path) -> None:
    class Net(Numbers, torch.nn.Linear):
        def __init__(self) -> None:
            torch.nn.Linear.__init__(self, 2, 2)
            Numbers.__init__(self)

        state_dict = torch.nn.Linear.state_dict  # type: ignore[assignment]
        load_state_dict = torch.nn.Linear.load_state_dict  # type: ignore[assignment]

    first, second = Net(), Net()
    broken_off(tmp_path / "run", first)
    go(tmp_path / "run", second)
    assert torch.equal(first.weight, second.weight)
    assert second.rows[0]["step"] == 7


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files are read as they were made: names are numbered, and 10 is before 9."""
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from tensorboard.summary.writer import event_file_writer as files

    monkeypatch.setattr(files, "_global_uid", type(files._global_uid)(0))
    return tmp_path / "board"


def shown(folder: Path, name: str = "fit/loss") -> list[int]:
    """The steps that TensorBoard's pages show of a curve."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return [event.step for event in events.Tensors(name)]


def test_tensorboard_shows_each_once(tmp_path: Path, board: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    broken_off(tmp_path / "run", TensorBoard(board))
    go(tmp_path / "run", TensorBoard(board))
    go(None, JsonlLogger(path))
    assert shown(board) == [row["step"] for row in read_jsonl(path) if "fit/loss" in row]


def test_in_another_folder_tensorboard_leaves_nothing_out(tmp_path: Path, board: Path) -> None:
    broken_off(tmp_path / "run", TensorBoard(board))
    other = tmp_path / "other"
    go(None, TensorBoard(other), until=20)
    go(tmp_path / "run", TensorBoard(other), until=9)
    assert shown(other) == [*range(1, 21), 7, 8, 9]


def test_what_is_measured_after_the_last_step_is_once_there(tmp_path: Path, board: Path) -> None:
    """The last step is one of those that are saved, and the run is made longer."""
    path = tmp_path / "metrics.jsonl"
    calls: list[int] = []

    def measure() -> dict[str, float]:
        calls.append(1)
        return {"accuracy": 1.0}

    for until in (6, 6, 9):
        loggers = TensorBoard(board), JsonlLogger(path)
        go(tmp_path / "run", *loggers, until=until, validate=measure)
    steps = [row["step"] for row in read_jsonl(path) if "accuracy" in row]
    assert steps == shown(board, "accuracy") == [5, 6, 9]
    assert len(calls) == 3

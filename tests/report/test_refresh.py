"""A report of a run that goes on is written now and then, for a hundredth of its time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mlopt._errors import CapabilityWarning
from mlopt.report import RunFolder, run_folder, write_report
from mlopt.report.refresh import Refresh


class Clock:
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(time, "perf_counter", found)
    return found


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one asks git, which takes longer than all else here."""
    found = dict.fromkeys(["mlopt", "command", "python", "torch"], "1")
    monkeypatch.setattr(run_folder, "environment", lambda: found)


@pytest.mark.parametrize("seconds", [0.1, 2.0, 7.0])
def test_all_calls_take_a_hundredth_of_the_time(clock: Clock, seconds: float) -> None:
    spent: list[float] = []

    def call(_: None) -> None:
        clock.now += seconds
        spent.append(clock.now)

    refresh = Refresh(call)
    for _ in range(20_000):
        clock.now += 0.5
        refresh.when_due(None)
        if len(spent) > 1:  # the first ones say how long they are
            assert len(spent) * seconds <= 0.01 * (clock.now - 1000) + seconds
    elapsed = clock.now - 1000
    assert len(spent) * seconds <= 0.01 * elapsed + 1e-6 * seconds
    # No less often than a hundredth allows, or than every half minute.
    assert len(spent) >= min(0.01 * elapsed / max(seconds, 0.1), elapsed / 32) * 0.8


def test_a_call_that_takes_ever_longer_is_put_off(clock: Clock) -> None:
    spent = [0.0]

    def call(_: None) -> None:
        took = 1.0 + spent[-1]
        clock.now += took
        spent.append(took)

    refresh = Refresh(call)
    for _ in range(100_000):
        clock.now += 0.5
        refresh.when_due(None)
    assert sum(spent[:-1]) + spent[-2] <= 0.01 * (clock.now - 1000)


def test_a_run_has_a_report_from_its_beginning_to_its_interruption(
    tmp_path: Path, clock: Clock
) -> None:
    def shown() -> str:
        return (tmp_path / "run" / "report.html").read_text(encoding="utf-8")

    def go_on() -> None:
        with RunFolder.create(tmp_path / "run", {"a": 1}, refresh=write_report) as folder:
            assert "before it logged anything" in shown()
            folder.log("search", step=1)
            assert "before it logged anything" in shown()
            clock.now += 310
            folder.log("search", step=2)
            assert "in the search, step 2 (logged" in shown()
            folder.log("search", step=3)
            assert "in the search, step 2 (logged" in shown()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go_on()
    assert "The run was interrupted, in the search, step 3." in shown()
    assert "refresh" not in shown()


def test_a_report_that_cannot_be_written_is_said_once_and_stops_nothing(
    tmp_path: Path, clock: Clock
) -> None:
    def fail(folder: RunFolder) -> None:
        raise ModuleNotFoundError("pip install matplotlib")

    with pytest.warns(CapabilityWarning, match="pip install matplotlib"):
        folder = RunFolder.create(tmp_path / "run", {}, refresh=fail)
    clock.now += 1e6
    folder.log("search", step=1)
    folder.close()
    assert folder.metrics() == [{"phase": "search", "step": 1}]

"""Signals in the process of a run: what is raised, which handlers stand, who is told."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.chaos import Interrupted as Fallen
from engine.chaos import falling
from engine.test_preemption import BOTH, Sends, engine_of, itself, run, same_as_in_one_go, status_of

import mlopt
from mlopt import Interrupted


@pytest.fixture
def default() -> Any:
    """The handlers are Python's, and are there again after the test."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    after = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGTERM, before[1])
    assert after == (signal.default_int_handler, signal.SIG_DFL)


@BOTH
@pytest.mark.usefixtures("default")
def test_what_is_raised_says_where_it_is_saved(tmp_path: Path, number: int) -> None:
    sends = Sends(3, itself(number))
    with pytest.raises(Interrupted) as ends:
        run(tmp_path, sends, workers=0)
    assert ends.value.signal == number
    assert isinstance(ends.value, KeyboardInterrupt)
    assert not isinstance(ends.value, Exception)
    name = signal.Signals(number).name
    expected = f"ended by {name} after 3 steps, saved in {tmp_path}. .*resume='{tmp_path}'"
    ends.match(expected)
    assert sends.ended == 1


@pytest.mark.usefixtures("default")
def test_what_is_raised_says_that_nothing_is_saved() -> None:
    with pytest.raises(Interrupted, match=r"after 1 step, of which nothing is saved.*Checkpoint"):
        engine_of(0).run(steps=3, callbacks=[Sends(1, itself(signal.SIGTERM))], progress=False)


@pytest.mark.usefixtures("default")
def test_a_step_that_fails_after_the_signal(tmp_path: Path) -> None:
    def fails() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError("a worker is gone")

    with pytest.raises(Interrupted, match="after 3 steps, of which the first 2 are saved") as ends:
        run(tmp_path / "cut", Sends(3, fails), workers=0, every=2)
    assert isinstance(ends.value.__cause__, OSError)
    same_as_in_one_go(tmp_path / "cut", tmp_path / "whole", workers=0)


@pytest.mark.usefixtures("default")
@pytest.mark.parametrize("hook", ["on_step", "on_end"])
def test_a_signal_is_never_lost(hook: str) -> None:
    """Not even one that comes when all steps are taken."""
    sends = Sends(3, itself(signal.SIGINT), hook)
    with pytest.raises(Interrupted, match="after 3 steps"):
        engine_of(0).run(steps=3, callbacks=[sends], progress=False)


@pytest.mark.usefixtures("default")
def test_the_second_ctrl_c_ends_at_once() -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second has been waited for")

    with pytest.raises(KeyboardInterrupt) as ends:
        engine_of(0).run(steps=3, callbacks=[Sends(1, twice)], progress=False)
    assert type(ends.value) is KeyboardInterrupt


@pytest.mark.usefixtures("default")
def test_two_in_the_middle_of_commits_are_two() -> None:
    """While optimizers step, Ctrl-C waits: both are heard of after it."""

    class Twice(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            return super().step(closure)

    w = mlopt.Variable(torch.nn.Parameter(torch.ones(2)), "w")
    fit = mlopt.problem(over=w, optimizer=Twice(w.parameters(), 0.1))(lambda w: (w**2).sum())
    engine = mlopt.Engine([fit])
    with pytest.raises(KeyboardInterrupt) as ends:
        engine.run(steps=3, progress=False)
    assert type(ends.value) is KeyboardInterrupt
    assert engine.steps <= 1


def test_the_second_sigterm_ends_the_process() -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(1)

    def work() -> None:
        engine_of(0).run(steps=3, callbacks=[Sends(1, twice)], progress=False)

    assert status_of(work) == -signal.SIGTERM


@pytest.mark.usefixtures("default")
def test_a_run_inside_of_another_ends_with_it() -> None:
    inner, outer = engine_of(0), engine_of(0)
    within: list[Interrupted] = []

    def validate() -> None:
        try:
            inner.run(steps=5, callbacks=[Sends(2, itself(signal.SIGTERM))], progress=False)
        except Interrupted as error:
            within.append(error)
            raise

    with pytest.raises(Interrupted, match="after 3 steps") as ends:
        outer.run(steps=9, validate=validate, progress=False)
    assert inner.steps == 2
    assert outer.steps == 3  # an epoch
    assert ends.value.__cause__ is within[0]


@pytest.mark.usefixtures("default")
def test_a_handler_of_the_users_own_is_left_alone() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    engine = engine_of(0)
    engine.run(steps=3, callbacks=[Sends(1, itself(signal.SIGTERM))], progress=False)
    assert engine.steps == 3
    assert heard == [signal.SIGTERM]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.usefixtures("default")
def test_a_handler_that_is_set_inside_stays() -> None:
    def mine(number: int, frame: Any) -> None:
        raise AssertionError

    def sets() -> None:
        signal.signal(signal.SIGTERM, mine)

    engine_of(0).run(steps=2, callbacks=[Sends(1, sets)], progress=False)
    assert signal.getsignal(signal.SIGTERM) is mine
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.usefixtures("default")
def test_a_run_in_a_thread_changes_nothing() -> None:
    seen: list[Any] = []

    def look() -> None:
        seen.extend(map(signal.getsignal, (signal.SIGINT, signal.SIGTERM)))

    engine = engine_of(0)
    thread = threading.Thread(
        target=engine.run, kwargs={"steps": 2, "callbacks": [Sends(1, look)], "progress": False}
    )
    thread.start()
    thread.join()
    assert engine.steps == 2
    assert seen == [signal.default_int_handler, signal.SIG_DFL]


@pytest.mark.usefixtures("default")
def test_a_child_of_a_run_is_ended_by_a_signal() -> None:
    status: list[int | None] = []

    def child() -> None:
        process = multiprocessing.get_context("fork").Process(target=signal.pause)
        process.start()
        process.terminate()
        process.join()
        status.append(process.exitcode)

    engine_of(0).run(steps=2, callbacks=[Sends(1, child)], progress=False)
    assert status == [-signal.SIGTERM]


@pytest.mark.usefixtures("default")
def test_what_is_raised_where_handlers_are_set_leaves_them_as_they_were() -> None:
    """At every call in the file that does it; a run that follows is ended by a signal."""
    engine = engine_of(0)
    engine.step()
    with falling(0, Fallen, files=("halt.py",)) as count:
        engine.run(steps=1, progress=False)
    assert count[0] > 20
    for at in range(1, count[0] + 1):
        with contextlib.suppress(Fallen), falling(at, Fallen, files=("halt.py",)):
            engine.run(steps=1, progress=False)
        left = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        assert left == [signal.default_int_handler, signal.SIG_DFL], f"call {at}"
    sends = Sends(engine.steps + 1, itself(signal.SIGTERM))
    with pytest.raises(Interrupted):
        engine.run(steps=2, callbacks=[sends], progress=False)


def test_all_callbacks_are_told_of_the_end_where_one_fails(tmp_path: Path) -> None:
    def fails() -> None:
        raise OSError("no room")

    last = Sends(0, lambda: None)
    with pytest.raises(OSError, match="no room"):
        run(tmp_path, Sends(0, fails, "on_end"), last, workers=0)
    assert last.ended == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step_0000000007.ckpt"]

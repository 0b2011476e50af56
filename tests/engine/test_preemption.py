"""SIGINT and SIGTERM end a run after a step, or the step before: what goes on is the same run."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import select
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from children import ended, fork
from engine.chaos import Interrupted as Fallen
from engine.chaos import falling
from engine.test_checkpoint import Counts, X, Y, made
from small import assert_same, state_of
from torch.utils.data import DataLoader, Dataset, dataloader

import mlopt
from mlopt import Checkpoint, Interrupted

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


class Drawn(Dataset):
    """Samples that a worker draws; one of which sends a signal, once for a file."""

    def __init__(self, send: Callable[[], None] | None = None, once: Path | None = None) -> None:
        self.send, self.once, self.calls = send, once, 0

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> Any:
        self.calls += 1
        if self.send is not None and self.calls == 3 and self.once and not self.once.exists():
            self.once.touch()
            self.send()
            signal.pause()  # until it has arrived
        return X[i] + 0.1 * torch.rand(3, dtype=X.dtype), Y[i]


class Sends(mlopt.Callback):
    """Does something after a step."""

    def __init__(self, at: int, send: Callable[[], None], hook: str = "on_step") -> None:
        self.at, self.send, self.hook = at, send, hook
        self.ended = 0

    def on_step(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        if self.hook == "on_step" and engine.steps == self.at:
            self.send()

    def on_between(self, engine: mlopt.Engine) -> None:
        if self.hook == "on_between" and engine.steps == self.at:
            self.send()

    def on_end(self, engine: mlopt.Engine) -> None:
        self.ended += 1
        if self.hook == "on_end":
            self.send()


def engine_of(workers: int, data: Drawn | None = None) -> mlopt.Engine:
    loader = DataLoader(data or Drawn(), batch_size=4, shuffle=True, num_workers=workers)
    return made(train=loader).engine()


def run(
    folder: Path,
    *more: mlopt.Callback,
    data: Drawn | None = None,
    workers: int = 2,
    every: int = 100,
    steps: int = 7,
) -> tuple[mlopt.Engine, Counts]:
    engine, counts = engine_of(workers, data), Counts()
    callbacks = [counts, *more, Checkpoint(folder, every=every)]
    engine.run(steps=steps, resume=folder, callbacks=callbacks, progress=False, log_every=2)
    return engine, counts


def grouped(work: Callable[[], object]) -> None:
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, handler)
    try:
        work()
    except KeyboardInterrupt as error:  # a plain one before the run has begun
        os._exit(128 + getattr(error, "signal", signal.SIGINT))


def status_of(work: Callable[[], object]) -> int:
    """That of a child, in a group of its own, which ends by it as a program does."""

    return ended(fork(lambda: grouped(work)))


def itself(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def its_group(number: int) -> Callable[[], None]:
    return lambda: os.killpg(0, number)


def same_as_in_one_go(folder: Path, whole: Path, workers: int = 2) -> None:
    expected, told = run(whole, workers=workers)
    found, again = run(folder, workers=workers)
    assert found.steps == expected.steps == 7
    assert again.told == told.told
    assert_same(state_of(expected), state_of(found))


@BOTH
@pytest.mark.parametrize("to", [itself, its_group])
@pytest.mark.parametrize("hook", ["on_step", "on_between"])
def test_the_step_is_finished_and_saved(tmp_path: Path, number: int, to: Any, hook: str) -> None:
    """No worker is needed for what is left of the step."""
    folder = tmp_path / "cut"
    status = status_of(lambda: run(folder, Sends(4, to(number), hook)))
    assert status == 128 + number
    assert [p.name for p in folder.iterdir()] == ["step_0000000004.ckpt"]
    same_as_in_one_go(folder, tmp_path / "whole")


@BOTH
def test_a_step_that_lacks_its_workers_is_undone(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker, in the middle of a batch, sends the signal to all: it dies by it."""
    waits = dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(waits, "__defaults__", (0.2,))  # seconds until it looks who is alive
    folder, once = tmp_path / "cut", tmp_path / "once"

    def work() -> None:
        # the third sample of a worker is of its second batch, which is the third or fourth of all
        run(folder, data=Drawn(its_group(number), once))

    assert status_of(work) == 128 + number
    assert once.exists()
    saved = [int(p.stem.removeprefix("step_")) for p in folder.iterdir()]
    assert len(saved) <= 1
    same_as_in_one_go(folder, tmp_path / "whole")


@pytest.mark.parametrize("kills", [1, pytest.param(40, marks=pytest.mark.slow)])
def test_signals_at_any_time(tmp_path: Path, kills: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the process or its group, one of which no process survives: the run is the same."""
    waits = dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(waits, "__defaults__", (0.2,))
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw, steps = random.Random(seed), 5 * kills
    began = time.perf_counter()
    expected, told = run(tmp_path / "whole", every=4, steps=steps)
    pace = (time.perf_counter() - began) / kills
    folder, done = tmp_path / "cut", False
    for _ in range(10 * kills):
        read, write = os.pipe()
        child = fork(lambda: grouped(lambda: run(folder, every=4, steps=steps)))
        os.close(write)
        number = draw.choice([signal.SIGINT, signal.SIGTERM, signal.SIGTERM, signal.SIGKILL])
        if kills > 0 and not select.select([read], [], [], 0.3 + draw.random() * pace)[0]:
            send = draw.choice([os.kill, os.killpg])
            with contextlib.suppress(ProcessLookupError):
                send(child, number)
        os.close(read)
        status = ended(child)
        assert status in (0, 128 + number, -number, -signal.SIGTERM), f"seed {seed}"
        if done := status == 0:
            break
        kills -= 1
    assert done
    found, again = run(folder, every=4, steps=steps)
    assert again.told == told.told, f"seed {seed}"
    whole, same = (  # a run that is over takes no step, which alone has gradients
        {k: v for k, v in state_of(e).items() if "grads" not in k} for e in (expected, found)
    )
    assert_same(whole, same)


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

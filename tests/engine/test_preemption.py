"""SIGINT and SIGTERM end a run after a step, or the step before: what goes on is the same run."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from children import ended, fork
from engine.test_checkpoint import Counts, X, Y, made
from small import assert_same, state_of
from torch.utils.data import DataLoader, Dataset, dataloader

import mlopt
from mlopt import Checkpoint

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

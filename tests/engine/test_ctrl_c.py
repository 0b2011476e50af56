"""Ctrl-C at any time leaves every level as before a step, or as after it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from engine.test_wholeness import OFTEN

INTERRUPTED = """
import os, random, signal, sys, threading, time
sys.path[:0] = {paths!r}
from engine.chaos import ALL, held
from small import differences
import mlopt, torch

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
rng, torn, caught = random.Random({seed}), 0, 0
for name in {names!r}:
    twin = ALL[name]()
    twin.step()
    states = [held(twin)]
    began = time.perf_counter()
    for _ in range({count}):
        twin.step()
        states.append(held(twin))
    pace = (time.perf_counter() - began) / {count}
    at = {count}
    for _ in range({count}):
        if at == {count}:  # all its steps are taken: another one
            engine, at = ALL[name](), 0
            engine.step()
        timer = threading.Timer(rng.random() * pace, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            while at < {count}:
                engine.step()
                at += 1
            timer.join()
            time.sleep(1)
        except KeyboardInterrupt:
            caught += 1
        timer.join()
        state = held(engine)
        near = [k for k in (at, at + 1) if k < len(states) and not differences(states[k], state)]
        torn += not near
        at = near[0] if near else at
print(caught, torn)
"""


def interrupted(names: list[str], count: int, seed: int) -> tuple[int, int]:
    root = Path(__file__).resolve().parents[2]
    paths = [str(root), str(root / "tests"), str(root / "examples")]
    program = INTERRUPTED.format(paths=paths, names=names, count=count, seed=seed)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    caught, torn = done.stdout.split()
    return int(caught), int(torn)


def test_ctrl_c_tears_no_step() -> None:
    caught, torn = interrupted(["loaders, foreign", "nested, central"], 8, 0)
    assert torn == 0
    assert caught == 16


@pytest.mark.slow
def test_ctrl_c_at_two_hundred_times() -> None:
    caught, torn = interrupted(OFTEN, 14, 1)
    assert torn == 0
    assert caught == 14 * len(OFTEN) >= 200

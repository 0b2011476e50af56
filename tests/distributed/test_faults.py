"""Misfortunes on one rank: nothing hangs, it is said which rank and why, and checkpoints stand."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from distributed.processes import environment, free_port

pytestmark = pytest.mark.usefixtures("on_the_device")

#: A run of forty steps takes seconds; whoever waits for ever is ended then, and the test fails.
HANGS = 120
#: What is said where, and by what the unlucky rank ends: (on it, on the other).
SAID = {
    "objective": ("ValueError: the objective has failed",) * 2,
    "callback": ("ValueError: the callback has failed",) * 2,
    "reading": ("OSError: cannot read sample",) * 2,
    "SIGTERM": ("Interrupted: run: ended by SIGTERM after {step} steps",) * 2,
    "SIGKILL": ("", "is gone"),
    "unequal": ("rank {later} has gone through list",) * 2,
}


def run(kind: str, step: int, unlucky: int, folder: Path) -> list[tuple[int, list[Any]]]:
    """Exit status of each rank, and what it said."""
    command = [sys.executable, "-m", "distributed.faults", kind, str(step), str(unlucky)]
    port = free_port()
    ranks = [
        subprocess.Popen([*command, str(folder)], env=environment(rank, 2, port))
        for rank in range(2)
    ]
    try:
        status = [rank.wait(HANGS) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    files = [Path(f"{folder}.{rank}.json") for rank in range(2)]
    return [
        (code, json.loads(file.read_text("utf-8")) if file.exists() else [])
        for code, file in zip(status, files, strict=True)
    ]


def saved(folder: Path) -> list[int]:
    return sorted(int(p.stem.removeprefix("step_")) for p in folder.glob("*.ckpt"))


@pytest.fixture(scope="module")
def undisturbed(on_the_device, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What a run comes to that meets nothing."""
    return run("none", 0, 0, tmp_path_factory.mktemp("undisturbed") / "run")[0][1]


def meet(kind: str, step: int, unlucky: int, folder: Path, undisturbed: list[Any]) -> None:
    """The run meets it, and goes on afterwards as if nothing had been."""
    misfortune(kind, step, unlucky, folder)
    if kind == "unequal":
        return
    again = run("none", 0, 0, folder)
    assert [code for code, _ in again] == [0, 0]
    assert again[0][1] == again[1][1]
    assert again[0][1] == undisturbed


def misfortune(kind: str, step: int, unlucky: int, folder: Path) -> None:
    """The run meets it, says so, and leaves its last checkpoint."""
    lucky = 1 - unlucky
    found = run(kind, step, unlucky, folder)
    mine, theirs = (text.format(step=step, later=1) for text in SAID[kind])
    assert found[lucky][0] == 1
    assert theirs in found[lucky][1][0]
    assert f"rank {unlucky}" in found[lucky][1][0] or kind in ("SIGTERM", "unequal")
    assert found[unlucky][0] == (1 if mine else -9)
    if mine:
        assert mine in found[unlucky][1][0]
    stands = {step if kind in ("SIGTERM", "unequal") else step // 5 * 5}
    if kind == "callback":  # a step is saved when all callbacks of the first rank have seen it
        stands.add((step - 1) // 5 * 5)
    assert saved(folder)[-1] in stands


@pytest.mark.parametrize("kind", [k for k in SAID if k != "SIGKILL"])
def test_misfortune_of_one_rank(kind, tmp_path):
    misfortune(kind, 13, 1, tmp_path / "run")


def test_a_run_goes_on_after_one(tmp_path, undisturbed):
    meet("SIGKILL", 13, 0, tmp_path / "run", undisturbed)


@pytest.mark.parametrize("kind", ["nan", "empty"])
def test_what_a_run_goes_on_with(kind, tmp_path):
    found = run(kind, 13, 1, tmp_path / "run")
    assert [code for code, _ in found] == [0, 0]
    assert found[0] == found[1]
    skipped = found[0][1][1]
    assert len(skipped) == (kind == "nan")
    assert all("step 13: the loss of lower is not finite on rank 1" in text for text in skipped)


def places(kind: str) -> Sequence[tuple[int, int]]:
    drawn = random.Random(kind)
    return [(drawn.randrange(6, 39), drawn.randrange(2)) for _ in range(20)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*SAID, "nan", "empty"])
def test_misfortunes_at_random_steps(kind, tmp_path, undisturbed):
    for n, (step, unlucky) in enumerate(places(kind)):
        if kind in SAID:
            meet(kind, step, unlucky, tmp_path / str(n) / "run", undisturbed)
        else:
            found = run(kind, step, unlucky, tmp_path / f"{n}")
            assert found[0] == found[1]

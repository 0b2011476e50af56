"""A run of an example that is killed, anywhere and again, is resumed to the end of one that is not.

Compared are, to the bit, all that the checkpoints of each stage hold, the retrained networks, the
genotypes, the results and the log; but for times.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from children import ended, fork, killed_at
from examples.small_runs import small
from image_files import write_fashion
from small import assert_same

import darts
import lfm_cw_darts
import mlopt
import sgl_darts
from mlopt.report import RunFolder
from support import pipeline
from support.pipeline import runs

FILES = (
    "mlopt/_files.py", "_engine/checkpoint.py", "_engine/checkpoint_files.py", "search/stages.py",
    "search/log.py", "pipeline/runs.py", "pipeline/folders.py", "nas/checkpoint.py",
)  # fmt: skip
TIMES = {
    "seconds", "between_seconds", "left_seconds", "search_seconds", "retrain_seconds",
    "measurement", "logged",
}  # fmt: skip
STAGES = ["--space", "p-darts", "--add-cells", "0", "1", "--drop", "4", "3", "--skip-dropout",
          "0.1", "0.4"]  # fmt: skip
FIRST, ALONE = ["--order", "first"], ["--no-beside-plain", "--retrain", "best"]
CASES: dict[str, tuple[Any, list[str]]] = {
    "LFM-CW": (lfm_cw_darts, ["--ema", "0.9", "--workers", "2", "--stop-on-collapse"]),
    "LFM-CW in stages": (lfm_cw_darts, [*STAGES, *FIRST, "--generator-epochs", "0"]),
    "SGL": (sgl_darts, ["--pretrain", "1", *ALONE]),
    "SGL and DARTS": (sgl_darts, ["--eval-seeds", "2", *FIRST]),
    "SGL in stages": (sgl_darts, [*STAGES, *FIRST, *ALONE]),
    "SGL on DARTS-": (sgl_darts, ["--space", "darts-minus", *FIRST, *ALONE]),
    "PC-DARTS": (darts, ["--space", "pc-darts", "--channels", "4", "--steps", "upper-first"]),
}


QUICK = ["LFM-CW", "SGL", "SGL in stages", "SGL on DARTS-"]
SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in CASES if case not in QUICK]


@pytest.fixture(autouse=True)
def checkpoints_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of finished runs, to be compared."""
    monkeypatch.setattr(runs, "remove_checkpoints", lambda folder: None)


@pytest.fixture(autouse=True)
def per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """LFM-CW's weights have schedulers that are stepped in each step; others in each epoch."""
    by_epoch = lfm_cw_darts.sgd

    def sgd(*arguments: Any) -> dict[str, Any]:
        found = by_epoch(*arguments)
        return {**found, "scheduler": mlopt.PerStep(found["scheduler"])}

    monkeypatch.setattr(lfm_cw_darts, "sgd", sgd)


def program(case: str, tmp_path: Path) -> Callable[[str], None]:
    """Runs an example, or goes on with it, in a folder of this name."""
    example, more = CASES[case]
    (tmp_path / "images").mkdir(exist_ok=True)
    write_fashion(tmp_path / "images", train=40, test=10)
    data = ["--dataset", "fashion-mnist", "--data-root", str(tmp_path / "images")]
    name = example.__name__

    def run(folder: str) -> None:
        random.seed(0)
        np.random.seed(0)
        s = small(
            tmp_path / folder, *data, "--batch-size", "4", "--eval-epochs", "2",
            "--checkpoint-every", "1", *more, example=name,
        )  # fmt: skip
        one = pipeline.run_beside_base if s.beside_plain else pipeline.run
        one(name, example.scheme, s, resume=True)

    return run


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run has left but times, and what the search stood at after each stage."""
    found: dict[str, Any] = {"rows": RunFolder.open(folder).metrics()}
    for path in sorted(folder.rglob("*.json")):
        if path.name not in ("settings.json", "environment.json"):
            found[path.relative_to(folder).as_posix()] = json.loads(path.read_text())
    newest = [max(inner.glob("*.ckpt")) for inner in folder.rglob("checkpoints*")]
    for path in (*folder.rglob("retrain_*.pt"), *newest):
        content = torch.load(path, weights_only=True)
        # That of a loader seeds its workers, whenever they are made; they draw by their batches.
        held = content.get("engine", {}).get("streams", [])
        for holder in (*held, *(start for stream in held for start in stream["starts"])):
            del holder["generators"]
        if not held:
            content["generators"].pop("loader", None)
        found[path.relative_to(folder).as_posix()] = content
    return without_times(found)


def without_times(held: Any) -> Any:
    if isinstance(held, dict):
        return {k: without_times(v) for k, v in held.items() if k not in TIMES}
    return [without_times(part) for part in held] if isinstance(held, list) else held


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("first", "more"), [(500, 1500), pytest.param(7, 41, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("case", QUICK + SLOW)
def test_killed_again_and_again(tmp_path: Path, case: str, first: int, more: int) -> None:
    """Later and later, at lines of what writes files and changes stages."""
    run, line, kills = program(case, tmp_path), first, 0
    # In a child as well: one that is forked from a process which had workers may wait for its own.
    assert ended(fork(partial(run, "whole"))) == 0
    while killed_at(line, FILES, lambda: run("cut")):
        line, kills = line + more, kills + 1
    assert kills
    expected, found = (outcome(tmp_path / name / "run") for name in ("whole", "cut"))
    assert expected["rows"]
    assert_same(expected, found)
    left = [p.name for p in (tmp_path / "cut").rglob(".*") if p.name.endswith(".part")]
    assert not left


def timed(at: float, work: Callable[[], None]) -> None:
    """Work that the system ends after so many seconds, in the middle of whatever it is."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, at)
    work()
    signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_random_moments(tmp_path: Path) -> None:
    """Each run till it is over, 30 kills in all."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    draw, kills, number = random.Random(seed), 0, 0
    expected: dict[str, tuple[dict[str, Any], float]] = {}
    while kills < 30:
        case, number = draw.choice(list(CASES)), number + 1
        run = program(case, tmp_path)
        if case not in expected:
            began = time.perf_counter()
            assert ended(fork(partial(run, f"whole {case}"))) == 0
            seconds = time.perf_counter() - began
            expected[case] = outcome(tmp_path / f"whole {case}" / "run"), seconds
        whole, longest = expected[case]
        status = -1
        while status:
            at = draw.uniform(0.01, longest)
            status = ended(fork(partial(timed, at, partial(run, str(number)))))
            assert status in (0, -signal.SIGALRM), f"seed {seed}, run {number}: status {status}"
            kills += status != 0
            longest *= 1.2  # so that it comes to an end on a machine that is busy
        assert_same(whole, outcome(tmp_path / str(number) / "run"))
        print(f"run {number}, {case}: {kills} kills")

"""Runs of cells in other processes, which import this; and what happens to them there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import mlopt
from mlopt.report import RunFolder
from support import pipeline
from support.settings import Settings
from support.tables import Cell

#: How many steps a run takes.
STEPS = 4


def run(
    before_step: Callable[[int], None], example: str, s: Settings, genotype: str, resume: bool
) -> None:
    """Stands for a whole run: steps of an engine, each with a checkpoint, and a result.

    It writes down beside the run which steps were taken, how many threads torch is to have, and
    which GPU.
    """
    _note(s, "threads", os.environ["OMP_NUM_THREADS"])
    _note(s, "gpu", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    W = mlopt.Variable(torch.nn.Parameter(torch.ones(1)), "w")

    @mlopt.problem(over=W, optimizer=torch.optim.SGD(W.parameters(), lr=0.1))
    def square(w: Any) -> torch.Tensor:
        return (w**2).sum()

    take = mlopt.Engine._take_step

    def step(engine: mlopt.Engine) -> Any:
        before_step(engine.steps)
        _note(s, "steps", engine.steps)
        return take(engine)

    engine = mlopt.Engine([square])
    settings = {"example": example, **vars(s)}
    with (
        pytest.MonkeyPatch.context() as patch,
        pipeline.open_run(
            Path(s.run_folder), settings, resume=resume, overwrite=s.overwrite
        ) as folder,
    ):
        patch.setattr(mlopt.Engine, "_take_step", step)
        checkpoints = folder.path("checkpoints")
        steps = 20_000 if s.epochs > STEPS else STEPS  # the many take half a minute
        saving = mlopt.Checkpoint(checkpoints, every=1)
        engine.run(steps=steps, callbacks=[saving], resume=checkpoints)
        folder.save_json("result.json", {"rows": [{"name": example, "test_error": 1.0}]})


def killed_once(
    example: str, s: Settings, genotype: str, resume: bool, fails: int | None = None
) -> None:
    """The first process of seed 1 of darts is killed before its third step; a seed of it fails."""
    mark = beside(s, "killed")

    def kill(steps: int) -> None:
        if steps == 2 and (example, s.seed) == ("darts", 1) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    if (example, s.seed) == ("darts", fails):
        raise ZeroDivisionError("by zero")
    run(kill, example, s, genotype, resume)


def endless(
    signals: Sequence[tuple[int, int]], example: str, s: Settings, genotype: str, resume: bool
) -> None:
    """An interrupt ends it. It writes into the pipe beside it, when it has taken two steps.

    Seed 0, when it has taken five, waits until seed 1 has done so, and sends these signals, each to
    a process, of which 0 is its own.
    """

    def tell(steps: int) -> None:
        pipe = beside(s, "pipe")
        if steps == 2 and pipe.exists():
            os.write(os.open(pipe, os.O_WRONLY), b"x")  # which stays open until this process ends
        if steps == 5 and signals and s.seed == 0:
            with pipe.with_name("seed1.pipe").open("rb") as other:
                other.read(1)
            for process, number in signals:
                os.kill(process or os.getpid(), number)

    run(tell, example, s, genotype, resume)


def beside(s: Settings, name: str) -> Path:
    """A file beside the folder of a run."""
    folder = Path(s.run_folder)
    return folder.with_name(f"{folder.name}.{name}")


def noted(cell: Cell, name: str) -> list[int]:
    """What all processes of a cell have written down of something."""
    path = beside(cell.s, name)
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def was_saved(cell: Cell) -> bool:
    """Whether a run was interrupted, and saved after its last step; and no step was taken twice."""
    steps = noted(cell, "steps")
    last = max(path.name for path in cell.folder.glob("checkpoints/step_*.ckpt"))
    ended = RunFolder.open(cell.folder).state == "interrupted" and cell.state() == "half done"
    return ended and steps == [*range(len(steps))] and last == f"step_{len(steps):010d}.ckpt"


def _note(s: Settings, name: str, what: object) -> None:
    path = beside(s, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"{what}\n")

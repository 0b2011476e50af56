"""A program of `examples/` as tests want it: in float64, and ended by a signal at some step.

    torchrun --nproc-per-node 2 as_a_rank.py lfm_cw_darts --epochs 1 ...

There is no option for float64. New networks have torch's default type, and batches that of the
images. `END_AT` in the environment is "rank step signal", where the rank may be "all", and "error"
a signal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """What programs make in a block is in float64, on one thread.

    Their checkpoints stay, and charts and cells are empty, as in the tests' own process.
    """
    from mlopt.data import ImageData
    from mlopt.report import figures
    from support.pipeline import learners, runs
    from support.settings import Settings

    load_data, threads = runs.load_data, torch.get_num_threads()

    def doubled(s: Settings) -> ImageData:
        data = load_data(s)
        images = {name: getattr(data, name).double() for name in ("train_images", "test_images")}
        return dataclasses.replace(data, **images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "load_data", doubled)
        patch.setattr(runs, "remove_checkpoints", lambda folder: None)
        patch.setattr(figures, "_svg", lambda *args, **kwargs: "<svg></svg>")
        patch.setattr(learners, "draw", lambda _, path, **kw: Path(path).write_text("<svg></svg>"))
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)
            torch.set_num_threads(threads)


@contextlib.contextmanager
def ended_at(rank: str, step: str, number: str) -> Iterator[None]:
    """A rank is sent a signal, or fails, at the beginning of a step."""
    import mlopt

    step_of = mlopt.Engine._stepped

    def stepped(engine: mlopt.Engine) -> Any:
        if engine.steps == int(step) and rank in ("all", os.environ["RANK"]):
            if number == "error":
                raise mlopt.DataError("on purpose")
            os.kill(os.getpid(), int(number))
        return step_of(engine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlopt.Engine, "_stepped", stepped)
        yield


def torchrun(
    name: str, line: list[str], end_at: str = "", plain: bool = False, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Start a program on two ranks, and wait for its end.

    Args:
        name: of the program.
        line: its arguments.
        end_at: "rank step signal".
        plain: whether it is started as a user does, not by this file.
        timeout: in seconds.
    """
    program = [str(ROOT / "examples" / f"{name}.py")] if plain else [__file__, name]
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program, *line]
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True,
        env=environment(end_at), timeout=timeout, check=False,
    )  # fmt: skip


def by_themselves(
    name: str, line: list[str], end_at: str = ""
) -> list[subprocess.CompletedProcess[str]]:
    """The same without torchrun, which ends all ranks when one has failed."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    children = []
    for rank in ("0", "1"):
        own = {
            "RANK": rank,
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        children.append(
            subprocess.Popen(
                [sys.executable, __file__, name, *line],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**environment(end_at), **own},
            )  # fmt: skip
        )
    said = [child.communicate(timeout=300)[0] for child in children]
    return [
        subprocess.CompletedProcess(child.args, child.returncode, text, "")
        for child, text in zip(children, said, strict=True)
    ]


def environment(end_at: str) -> dict[str, str]:
    """Of a rank that is ended at some step."""
    paths = [str(ROOT), str(ROOT / "tests"), str(ROOT / "examples")]
    found = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    found.pop("END_AT", None)
    return {**found, "END_AT": end_at} if end_at else found


if __name__ == "__main__":
    from support import pipeline

    scheme = sys.argv.pop(1)
    with contextlib.ExitStack() as stack:
        if "END_AT" in os.environ:
            stack.enter_context(ended_at(*os.environ["END_AT"].split()))
        stack.enter_context(in_float64())
        pipeline.main(scheme, importlib.import_module(scheme).scheme, None)

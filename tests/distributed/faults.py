"""A run on ranks in which one of them meets a misfortune: `faults.py KIND STEP RANK FOLDER`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from distributed.here import Engine, join_group, seeded
from small import F64, sgd
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mlopt
from mlopt.distributed import split

STEPS, SAMPLES, BATCH = 40, 40, 4


class Data(TensorDataset):
    """Samples, of which the reading fails at one."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        super().__init__(*tensors)
        self.fails: Any = None

    def __getitem__(self, i: int) -> Any:
        if self.fails is not None:
            raise OSError(f"cannot read sample {i}")
        return super().__getitem__(i)


class Misfortune(mlopt.Callback):
    """What happens after a step, on the unlucky rank."""

    def __init__(self, kind: str, step: int, data: Data) -> None:
        self.kind, self.step, self.data = kind, step, data

    def on_step(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        if engine.steps != self.step:
            return
        if self.kind in ("SIGTERM", "SIGKILL"):
            os.kill(os.getpid(), getattr(signal, self.kind))
        elif self.kind == "callback":
            raise ValueError("the callback has failed")
        elif self.kind == "reading":
            self.data.fails = True


def fit(kind: str, step: int, unlucky: bool, folder: Path) -> Any:
    """A run that meets the misfortune, if this is the rank: steps that were skipped, parameters."""
    generator = torch.Generator().manual_seed(1)
    samples = SAMPLES + 1 if kind == "empty" else SAMPLES  # the last batch is of one
    x = torch.randn(samples, 3, generator=generator, dtype=F64)
    data = Data(x, x.sin())
    own: Any = split(DataLoader(data, batch_size=BATCH, shuffle=True))
    if kind == "unequal":  # a pass ends sooner than that of the others
        own = [(x[:2], x[:2].sin())] * (step if unlucky else step + 3)
    W = mlopt.Variable(seeded(1, lambda: nn.Linear(3, 3)), "w")
    V = mlopt.Variable(seeded(2, lambda: nn.Linear(3, 3)), "v")

    @mlopt.problem(over=W, given=[V], data=own, optimizer=sgd(W), hypergrad=mlopt.OneStep())
    def lower(w, v, batch):
        x, y = batch
        loss = (w(x) + v(x) - y).square().mean()
        if unlucky and kind == "objective" and engine.steps == step:
            raise ValueError("the objective has failed")
        return loss * float("nan") if unlucky and kind == "nan" and engine.steps == step else loss

    @mlopt.problem(over=V, given=[W], data=own, optimizer=sgd(V))
    def upper(v, w, batch):
        x, y = batch
        return (w(x) - y).square().mean() + 0.1 * v(x).square().mean()

    engine = Engine([lower, upper], skip_nonfinite=int(kind == "nan"))
    skipped: list[str] = []

    class Skips(mlopt.Callback):
        def on_skip(self, engine: mlopt.Engine, error: mlopt.NonFiniteError) -> None:
            skipped.append(str(error))

    observers = [Skips(), mlopt.Checkpoint(folder, every=5)]
    observers += [Misfortune(kind, step, data)] if unlucky else [mlopt.Callback()]
    engine.run(steps=STEPS, callbacks=observers, resume=folder, progress=False)
    parameters = [p.detach().flatten() for p in (*W.parameters(), *V.parameters())]
    return skipped, torch.cat(parameters).tolist()


def main() -> None:
    kind, step, unlucky, folder = sys.argv[1], *map(int, sys.argv[2:4]), Path(sys.argv[4])
    join_group()
    rank = dist.get_rank()
    said, kept = "", ([], [])
    try:
        kept = fit(kind, step, rank == unlucky, folder)
    except mlopt.Interrupted as error:
        said = f"Interrupted: {error}"
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    Path(f"{folder}.{rank}.json").write_text(json.dumps([said, *kept]), encoding="utf-8")
    if not said:
        dist.barrier()
        dist.destroy_process_group()
    sys.exit(1 if said else 0)


if __name__ == "__main__":
    main()

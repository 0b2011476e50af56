"""Runs of engines whose variables are sharded: saved, resumed, refused."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from compare import exact
from distributed import sharded_laws
from distributed.agreements import said
from distributed.here import Engine, here
from distributed.laws import same_bits, slice_of
from distributed.rank_graphs import LAYERS, METHODS, nested
from distributed.sharded_laws import sharding, whole
from torch.distributed.device_mesh import DeviceMesh

import mlopt
from mlopt._engine import checkpoint_files, shard_files
from mlopt._engine.resuming import run_state


def engine_of(
    sharded: bool, optimizer: str = "Adam", own: Any = slice_of, ranks: Any = None
) -> mlopt.Engine:
    """A graph of three levels; its middle and lower ones sharded, or on this process alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlopt.CapabilityWarning)
        if sharded:
            with sharding():
                nodes = nested(METHODS["central"], own, LAYERS["plain"])
        else:
            nodes = nested(METHODS["central"], own, LAYERS["plain"])
        for node in nodes[:2]:
            held = [p for group in node.optimizer.param_groups for p in group["params"]]
            node.optimizer = getattr(torch.optim, optimizer)(held, lr=0.05)
        return Engine(nodes, ranks=ranks)


def state(engine: mlopt.Engine) -> dict[str, Any]:
    """Parameters and the states of optimizers, as a user sees them, whole."""
    found: dict[str, Any] = {}
    for problem in engine.graph.problems:
        for v in problem.over:
            found |= {f"{v.name} {k}": p.detach() for k, p in v.named_parameters().items()}
        for i, own in enumerate(problem.optimizer.state.values()):
            found |= {f"{problem.name} {i} {k}": t for k, t in own.items()}
    return whole(found)


def quietly(engine: mlopt.Engine, steps: int, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlopt.CapabilityWarning)
        engine.run(steps=steps, progress=False, **options)


def saved(folder: str) -> dict[str, Any]:
    """Four steps, of which two are saved; where they lead."""
    engine = engine_of(True)
    quietly(engine, 2, callbacks=[mlopt.Checkpoint(Path(folder), every=1)])
    quietly(engine, 2)
    assert all(
        hasattr(p, "full_tensor") for v in engine.graph.variables[:1] for p in v.parameters()
    )
    return state(engine)


def resumed(folder: str, sharded: bool, expected: dict[str, Any]) -> None:
    """The run goes on with this number of ranks, sharded or not, to where it led."""
    engine = engine_of(sharded)
    quietly(engine, 4, resume=folder)
    assert engine.steps == 4
    exact(state(engine), expected, 1e-12, what=f"{dist.get_world_size()} ranks, {sharded}")


def saved_plain(folder: str) -> dict[str, Any]:
    """The same run, with variables that every rank has."""
    engine = engine_of(False)
    quietly(engine, 2, callbacks=[mlopt.Checkpoint(Path(folder), every=1)])
    quietly(engine, 2)
    return state(engine)


def taken_over(sharded: bool) -> None:
    """A state goes from one engine to another, sharded or not."""
    first = engine_of(True)
    quietly(first, 2)
    other = engine_of(sharded)
    quietly(other, 1)
    other.load_state_dict(first.state_dict())
    quietly(first, 1)
    quietly(other, 1)
    exact(state(other), state(first), 1e-12, what="taken over")


def unwritable(folder: str, what: str) -> str:
    """What is said where the first rank, or torch, finds no place for shards."""
    engine = engine_of(True)
    quietly(engine, 1)
    saver = mlopt.Checkpoint(Path(folder))
    if what == "first":
        with patch.object(shard_files, "_begun", side_effect=OSError("no room")):
            return said(lambda: saver.save(engine))
    begun = shard_files._begun

    def no_folder(path: Path) -> str:
        name = begun(path)
        path.with_name(f".{name}.part").write_text("no folder")
        return name

    with patch.object(shard_files, "_begun", no_folder):
        return said(lambda: saver.save(engine))


def saved_again(folder: str) -> list[str]:
    """A step is saved once more, of which runs are killed before the file is written.

    Returns:
        The folders that are there after each time, of which the last is not killed.
    """
    engine, found = engine_of(True), list[str]()
    saver = mlopt.Checkpoint(Path(folder), keep=1)
    quietly(engine, 2, callbacks=[saver])
    path = Path(folder) / "step_0000000002.ckpt"
    for _ in range(2):
        shard_files.write_shards(path, run_state(engine, engine._course), engine._sharded)
        other = engine_of(True)
        quietly(other, 2, resume=folder)
        same_bits(state(other), state(engine), "killed")
        found.append(" ".join(sorted(p.name for p in path.parent.glob("*.shards"))))
    saver.save(engine)
    found.append(" ".join(sorted(p.name for p in path.parent.glob("*.shards"))))
    quietly(engine_of(True), 2, resume=folder)
    return found


def ended(folder: str) -> str:
    """What is said where a callback of one rank fails when the state is whole, and not saved."""

    class Fails(mlopt.Callback):
        def on_between(self, engine: mlopt.Engine) -> None:
            if engine.steps == 2 and dist.get_rank() == 0:
                raise ValueError("the callback has failed")

    callbacks = [mlopt.Checkpoint(Path(folder)), Fails()]
    with a_group_of_its_own() as group:
        return said(lambda: quietly(engine_of(True, ranks=group), 4, callbacks=callbacks))


def seen_by_one(folder: str, what: str) -> tuple[Any, ...]:
    """A run goes on from a folder of which the second rank may see something else.

    Returns:
        What is said, and after which step it has gone on.
    """
    given: Any = contextlib.nullcontext()
    if what == "unchecked":
        given = patch.object(checkpoint_files, "check_shards")
    elif dist.get_rank() == 1 and what == "no file":
        given = patch.object(checkpoint_files, "checkpoints", return_value=[])
    elif dist.get_rank() == 1:
        sums = shard_files._sum

        def others(at: Path) -> str:
            return "" if at.parent.name == "step_0000000002.shards" else sums(at)

        given = patch.object(shard_files, "_sum", others)
    began: list[int] = []

    class Begins(mlopt.Callback):
        def on_start(self, engine: mlopt.Engine) -> None:
            began.append(engine.steps)

    with a_group_of_its_own() as group, given, warnings.catch_warnings():
        warnings.simplefilter("ignore", mlopt.CapabilityWarning)
        engine = engine_of(True, ranks=group)
        error = said(
            lambda: engine.run(steps=2, progress=False, resume=folder, callbacks=[Begins()])
        )
    return error, *began


@contextmanager
def a_group_of_its_own() -> Iterator[Any]:
    """A block in which modules are sharded over a group that later tests do not need."""
    group: Any = dist.new_group()
    mesh = DeviceMesh.from_group(group, here().type)
    with patch.object(sharded_laws, "mesh", lambda: mesh):
        yield group

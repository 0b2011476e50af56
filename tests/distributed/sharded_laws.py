"""What ranks compute whose variables are sharded, and the whole on one process."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from compare import exact
from distributed.here import Engine, here
from distributed.laws import slice_of
from distributed.rank_graphs import GRAPHS, LAYERS, METHODS
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import mlopt

_Variable = mlopt.Variable


def mesh(*sizes: int, **how: Any) -> Any:
    """A mesh of the devices of all ranks."""
    return init_device_mesh(here().type, sizes or (dist.get_world_size(),), **how)


def shard(module: nn.Module, **how: Any) -> nn.Module:
    """The module, sharded over all ranks: each of its layers, and what is left."""
    how.setdefault("mesh", mesh())
    for layer in module.children():
        if isinstance(layer, nn.Linear):
            fully_shard(layer, **how)
    return fully_shard(module, **how)


@contextmanager
def sharding() -> Iterator[None]:
    """A block in which the modules of variables are sharded when these are made."""

    def variable(value: Any, name: str) -> mlopt.Variable:
        return _Variable(shard(value) if isinstance(value, nn.Module) else value, name)

    mlopt.Variable = variable  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        mlopt.Variable = _Variable  # type: ignore[misc]


def whole(held: Any) -> Any:
    """The same with whole tensors for sharded ones."""
    if isinstance(held, dict):
        return {k: whole(v) for k, v in held.items()}
    if isinstance(held, list | tuple):
        return [whole(v) for v in held]
    return held.full_tensor() if hasattr(held, "full_tensor") else held


def numbers(engine: mlopt.Engine, steps: int = 2) -> list[Any]:
    """Hypergradients, metrics of a step, and the parameters after some."""
    problems = engine.graph.problems
    found: list[Any] = [
        {f"{v.name} {k}": t for v, own in engine.hypergradient(p).items() for k, t in own.items()}
        for p in problems
    ]
    found.append(engine.step())
    for _ in range(steps - 1):
        engine.step()
    found.append(
        {
            f"{v.name} {k}": p.detach()
            for q in problems
            for v in q.over
            for k, p in v.named_parameters().items()
        }
    )
    return whole(found)


def sharded_law(graph: str, method: str, layer: str, bound: float) -> None:
    """N ranks with sharded variables give what one process gives with N parts."""
    made = GRAPHS[graph]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlopt.CapabilityWarning)
        warnings.simplefilter("ignore", mlopt.ConvergenceWarning)
        nodes = made(METHODS[method], lambda batch: batch, LAYERS[layer])
        alone = Engine(nodes, parts=dist.get_world_size(), ranks=False)
        expected = numbers(alone)
        with sharding():
            nodes = made(METHODS[method], slice_of, LAYERS[layer])
        found = numbers(Engine(nodes))
        if method == "zeroth order":  # of which values are divided by the radius
            bound /= METHODS[method].radius
        exact(found, expected, bound, what=f"{graph} by {method}")

"""Engines whose variables live on two devices of this process."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

import torch
from distributed.laws import numbers
from distributed.rank_graphs import GRAPHS, LAYERS, METHODS
from distributed.two_names import TwoNames
from torch import nn

import mlopt


def move(variable: mlopt.Variable, device: str) -> None:
    """Let a variable live on a device; its parameters stay the objects that its optimizer has."""
    value = variable.value
    if isinstance(value, nn.Module):
        value.to(device)
    else:
        value.data = value.data.to(device)


def engine_on(
    nodes: list[Any], devices: tuple[str, str] | None, away: Collection[str], **options: Any
) -> mlopt.Engine:
    """An engine of which the named variables live on the second of two devices; or all on one."""
    alone = mlopt.Engine(nodes, ranks=False, **options)
    places = {v: devices[v.name in away] if devices else "cpu" for v in alone.graph.variables}
    for variable, device in places.items():
        move(variable, device)
    return mlopt.Engine(nodes, places=places, ranks=False, **options) if devices else alone


def computed(
    graph: str, method: str, devices: tuple[str, str] | None, away: Collection[str], **options: Any
) -> list[Any]:
    """What an engine computes, on the host."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlopt.CapabilityWarning)
        warnings.simplefilter("ignore", mlopt.ConvergenceWarning)
        nodes = GRAPHS[graph](METHODS[method], lambda batch: batch, LAYERS["batch norm"])
        return _on_host(numbers(engine_on(nodes, devices, away, **options)))


def across(graph: str, method: str, away: Collection[str]) -> None:
    """Nothing is computed on two devices at once, which are told apart by their names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlopt.CapabilityWarning)
        warnings.simplefilter("ignore", mlopt.ConvergenceWarning)
        names = "cpu", "cpu:0"
        nodes = GRAPHS[graph](METHODS[method], lambda batch: batch, LAYERS["batch norm"])
        engine, mode = engine_on(nodes, names, away), TwoNames()
        for variable in engine.graph.variables:
            value = variable.value
            held = value.buffers() if isinstance(value, nn.Module) else ()
            mode.put([*variable.parameters(), *held], names[variable.name in away])
        with mode:
            for problem in engine.graph.problems:
                engine.hypergradient(problem)
            engine.step()
            engine.step()


def _on_host(held: Any) -> Any:
    if isinstance(held, dict):
        return {k: _on_host(v) for k, v in held.items()}
    if isinstance(held, list):
        return [_on_host(v) for v in held]
    return held.cpu() if isinstance(held, torch.Tensor) else held

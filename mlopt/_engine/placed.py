"""`placed`: where the nodes of an engine are evaluated, by where it is said that variables live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .._arguments import shown
from .._containers.loaders import describe, shared
from .._errors import DataError, GraphError
from .._evaluation.on_devices import OnDevices
from .._evaluation.shardable import is_sharded
from .._graph.graph import Graph
from .._graph.homes import homes_of
from .._graph.node import Node
from .._graph.stacking import take_apart
from .._variable import Variable
from ..distributed.ranks import Ranks
from .device import usable

__all__ = ["Placed", "placed"]


@dataclass(frozen=True)
class Placed:
    """Where nodes are evaluated.

    Attributes:
        homes: the ranks of those that are not evaluated on all of them.
        devices: brings what they read to their devices.
    """

    homes: Mapping[Node, tuple[int, ...]] = field(default_factory=dict)
    devices: OnDevices | None = None


def placed(graph: Graph, places: Any, ranks: Ranks | None, device: torch.device | None) -> Placed:
    """Where the nodes of an engine are evaluated.

    Args:
        graph: of the engine.
        places: where variables live, as it was given.
        ranks: of the engine; None where it is alone.
        device: of the engine.

    Returns:
        The places of its nodes.

    Raises:
        GraphError: there is no such place, or nobody to live there.
        DataError: a loader gives a rank its share of a batch.
    """
    if places is None:
        return Placed()
    if not isinstance(places, Mapping) or not places:
        raise GraphError(
            f"Engine: places={shown(places)} must be a dict that says where variables live, such "
            'as {W: 0, V: (1, 2)} or {W: "cuda:0", V: "cuda:1"}; leave it out where all live in '
            "one place."
        )
    for variable in places:
        if not isinstance(variable, Variable) or variable not in graph.owner:
            named = isinstance(variable, Variable)
            what = f"the variable {variable.name}" if named else shown(variable)
            raise GraphError(
                f"Engine: places= names {what}, over which no problem of this engine is minimised. "
                "Its keys are variables of its problems."
            )
    if split := [v.name for v in graph.variables if any(map(is_sharded, v.parameters()))]:
        raise GraphError(
            f"Engine: places= says where variables live, and {' and '.join(split)} is sharded, "
            "which has some rows on every rank. Leave out places=, or do not shard."
        )
    of_devices = [isinstance(place, str | torch.device) for place in places.values()]
    if all(of_devices):
        return Placed(devices=_on_devices(graph, places, ranks, device))
    if any(of_devices):
        raise GraphError(
            "Engine: places= names ranks and devices. Name one kind: a rank computes on the "
            "device of its own, Engine(device=)."
        )
    if ranks is None:
        raise GraphError(
            "Engine: places= names ranks, and this process is alone. Start several (torchrun), and "
            "call torch.distributed.init_process_group() before; or leave places= out."
        )
    _check_whole(graph)
    at = {v: _home(v, place, ranks.size) for v, place in places.items()}
    homes = homes_of(graph, at)
    if device is None:
        return Placed(homes)
    # Of a batch that all ranks have, each brings to its device what it evaluates.
    everything = dict.fromkeys(graph.nodes, device), dict.fromkeys(graph.variables, device)
    return Placed(homes, OnDevices(*everything))


def _check_whole(graph: Graph) -> None:
    """Every rank is to have whole batches."""
    for stream in dict.fromkeys(s for node in graph.nodes for s in node.streams):
        if (found := shared(stream.loader)) is not None:
            raise DataError(
                f"Engine: with places= every rank draws whole batches, of which those that need "
                f"them take their part. But {describe(stream.loader)} gives a rank its share of "
                f"{found[1]}, by its {found[0]}. Leave out split(), or the sampler."
            )


def _home(variable: Variable, place: Any, ranks: int) -> tuple[int, ...]:
    """The ranks that a variable lives on."""
    where = f"Engine(places={{{variable.name}: {shown(place)}}}): "
    listed = place if isinstance(place, tuple | list) else (place,)
    for rank in listed:
        if isinstance(rank, bool) or not isinstance(rank, int):
            raise GraphError(
                f"{where}a variable lives on a rank, on a tuple of them, such as (0, 1), or on a "
                'device, such as "cuda:1".'
            )
        if not 0 <= rank < ranks:
            raise GraphError(
                f"{where}there is no rank {rank} among the {ranks} of this engine, which are "
                f"counted from 0 to {ranks - 1}."
            )
    if not listed:
        raise GraphError(f"{where}it has to live somewhere. Leave it out for all ranks.")
    if len({*listed}) < len(listed):
        raise GraphError(f"{where}a rank is named twice.")
    return tuple(sorted(listed))


def _on_devices(
    graph: Graph, places: Mapping[Variable, Any], ranks: Ranks | None, device: torch.device | None
) -> OnDevices:
    """What brings to each node's device what it reads."""
    if ranks is not None:
        raise GraphError(
            "Engine: places= names devices, and this process is one of several ranks. Name ranks, "
            "each of which computes on its device; or give ranks=False."
        )
    at = {v: _device(v, place) for v, place in places.items()}
    for variable in graph.variables:  # those that are not named live where they are
        if variable not in at and (held := variable.parameters()):
            at[variable] = held[0].device
    rest = device or next(iter({v: d for v, d in at.items() if v not in places}.values()), None)
    rest = rest or next(iter(at.values()))
    homes = homes_of(graph, at)
    for problem in graph.problems:
        game = graph.games.get(problem)
        if game is not None and game.traced:  # each takes steps of its own
            continue
        solved = {at[v] for p in graph.solved_with(problem) for v in p.over}
        behind = {at[v] for v in graph.methods[problem].reads}
        if len(solved) > 1 or not behind <= solved:
            what = "the equilibrium of its game" if len(solved) > 1 else "what its steps start at"
            raise GraphError(
                f"Engine: places= has {problem.name} on another device than {what}, with which it "
                "is solved. Let them live on one device."
            )
    take_apart(graph, "on the device where it lives")
    everywhere = {v: at.get(v, rest) for v in graph.variables}
    return OnDevices({node: homes.get(node, rest) for node in graph.nodes}, everywhere)


def _device(variable: Variable, place: Any) -> torch.device:
    """The device that a variable lives on."""
    device = usable(place, f"Engine(places={{{variable.name}: ...}}): ")
    assert device is not None
    there = torch.empty(0, device=device).device
    held = [*variable.parameters()]
    if isinstance(variable.value, nn.Module):
        held += variable.value.buffers()
    if (wrong := next((t.device for t in held if t.device != there), None)) is not None:
        raise GraphError(
            f"Engine(places={{{variable.name}: {str(place)!r}}}): it lives on {wrong}. Move it "
            f"there, .to({str(place)!r}), before its optimizer is made."
        )
    return device if there.type == "cpu" else there

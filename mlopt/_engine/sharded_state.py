"""The state of an engine whose variables are sharded: DTensors outside, rows inside."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import torch
from torch import Tensor

from .._errors import SettingsError
from .._evaluation.sharded import Sharded
from .._graph.graph import Graph
from ..distributed.shards import Shard

__all__ = ["given", "taken", "whole"]

_State = dict[str, Any]
#: A place in a state: what holds it, its key, and the key of the parameter that it goes with.
_Place = tuple[MutableMapping[Any, Any], Any, Any]


def given(sharded: Sharded, graph: Graph, names: dict[str, Any], state: _State) -> _State:
    """A state with DTensors for the rows in it.

    Args:
        sharded: variables of the engine; their rows stand in modules and optimizers.
        graph: of the engine.
        names: its variables, and signals with a memory, by name.
        state: as `save_state` has it; it is changed.

    Returns:
        The state.
    """
    for held, at, key in _places(sharded, graph, names, state):
        value = held[at]
        shard = sharded.spread.shards[key]
        if isinstance(value, Tensor) and tuple(value.shape) == (shard.own, *shard.shape[1:]):
            held[at] = sharded.wrapped(key, value)
    return state


def taken(sharded: Sharded, graph: Graph, names: dict[str, Any], state: _State) -> _State:
    """A state with rows for DTensors, and for whole tensors, where an engine has rows.

    Args:
        sharded: variables of the engine; their rows stand in modules and optimizers.
        graph: of the engine.
        names: its variables, and signals with a memory, by name.
        state: what was given, which is left as it is.

    Returns:
        Another one.

    Raises:
        SettingsError: a tensor has another shape than the parameter.
    """
    copied = _copied(state)
    for held, at, key in _places(sharded, graph, names, copied):
        value = held[at]
        if isinstance(value, Tensor) and value.dim():
            held[at] = _rows(value, sharded.spread.shards[key], f"{key[0].name}.{key[1]}")
    return whole(copied)


def whole(held: Any) -> Any:
    """The same with whole tensors for DTensors; of the same placements on all ranks."""
    if isinstance(held, dict):
        return {k: whole(v) for k, v in held.items()}
    if isinstance(held, list | tuple):
        return type(held)(whole(v) for v in held)
    return held.full_tensor() if hasattr(held, "full_tensor") else held


def _copied(held: Any) -> Any:
    """The containers anew, with the same tensors."""
    if isinstance(held, dict):
        return {k: _copied(v) for k, v in held.items()}
    return [_copied(v) for v in held] if isinstance(held, list) else held


def _rows(value: Any, shard: Shard, where: str) -> Tensor:
    """This rank's rows of a DTensor, or of a whole tensor."""
    if tuple(value.shape) != shard.shape:
        raise SettingsError(
            f"load_state_dict: {where} is of {tuple(value.shape)} in it, not {shard.shape}. Make "
            "the engine as the one that was saved."
        )
    local = getattr(value, "_local_tensor", None)
    if local is None:
        return shard.rows(value)
    if local.shape[0] == shard.own and value.placements[0].is_shard(0):
        return local
    return shard.rows(value.full_tensor())


def _places(
    sharded: Sharded, graph: Graph, names: dict[str, Any], state: _State
) -> Iterator[_Place]:
    """Where a state has rows, or what stands for them."""
    shards = sharded.spread.shards
    for name, source in names.items():
        found = state["variables"].get(name, {}).get("parameters", {})
        for key in found:
            if (source, key) in shards:
                yield found, key, (source, key)
    for problem in graph.problems:
        saved = state["optimizers"].get(graph.labels[problem])
        if problem.optimizer is None or not isinstance(saved, dict) or "state" not in saved:
            continue
        groups = saved.get("param_groups", [])
        ids = [i for group in groups for i in group["params"]]
        of = {id(rows): key for key, rows in sharded.rows_by_key().items()}
        held = [p for group in problem.optimizer.param_groups for p in group["params"]]
        for i, parameter in zip(ids, held, strict=False):
            key = of.get(id(parameter))
            own = saved["state"].get(i)
            if key is not None and isinstance(own, dict):
                for at, value in own.items():
                    if isinstance(value, torch.Tensor) and value.dim():
                        yield own, at, key

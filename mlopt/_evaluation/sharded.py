"""`Sharded`: variables whose parameters lie on several ranks, some rows on each.

`torch.distributed.fsdp.fully_shard` makes a module's parameters DTensors, and gathers them in hooks
that know of no other values, and of no second derivative. While an engine works, rows stand in
their places: plain tensors, in the very memory of the DTensors, in modules as in optimizers. All
that a step does between two evaluations, it does of rows; a function reads whole tensors, layer by
layer (`Slots`). Outside of the engine's work everything is as `fully_shard` has left it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import GraphError
from .._graph.graph import Graph
from .._graph.problem import Problem
from .._tensors import Key, spread_over
from ..distributed.ranks import Ranks
from ..distributed.shards import Shard, packed
from ..distributed.spread import SpreadKeys
from .row_optimizer import RowOptimizer, like
from .shardable import (
    check_hooks,
    check_optimizer,
    check_sharded,
    fsdp_modules,
    is_sharded,
)  # fmt: skip
from .slots import Slots, whole_reads

__all__ = ["Sharded", "sharded"]

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def sharded(graph: Graph, ranks: Ranks | None) -> Sharded | None:
    """What of a graph's variables is sharded.

    Args:
        graph: the graph.
        ranks: of the engine; None where it is alone.

    Returns:
        It; None if nothing is.

    Raises:
        GraphError: something is sharded in a way that is not served.
    """
    if not any(is_sharded(p) for v in graph.variables for p in v.parameters()):
        return None
    check_sharded(graph, ranks)
    assert ranks is not None
    return Sharded(graph, ranks)


class Sharded:
    """The sharded variables of an engine.

    Args:
        graph: of the engine.
        ranks: of the engine, on which all of them lie.

    Attributes:
        ranks: they.
        spread: says which tensors are rows.
    """

    def __init__(self, graph: Graph, ranks: Ranks) -> None:
        self._graph, self.ranks = graph, ranks
        self._stands = False
        self._parts: list[_Part] = []
        self._roots: list[nn.Module] = []
        self._rows: dict[int, tuple[Any, Tensor]] = {}  # a DTensor, and its rows, by its identity
        self._parameters: dict[Key, Any] = {}
        shards: dict[Key, Shard] = {}
        of: dict[int, Shard] = {}
        for variable in graph.variables:
            if not isinstance(variable.value, nn.Module):
                continue
            self._roots += fsdp_modules(variable.value)
            for name, p in variable.value.named_parameters():
                if is_sharded(p):
                    shards[variable, name] = shard = Shard.of(p.shape, ranks, len(shards))
                    self._rows[id(p)] = p, _rows_of(p, shard)
                    self._parameters[variable, name], of[id(p)] = p, shard
            for part in variable.value.modules():
                own = {k: p for k, p in part._parameters.items() if is_sharded(p)}
                hooks = [
                    name for name in _HOOKS if any(map(_is_fsdps, part.__dict__[name].values()))
                ]
                if own or hooks:
                    held = {k: of[id(p)] for k, p in own.items()}
                    self._parts.append(_Part(part, own, held, hooks))
        self.spread = SpreadKeys(shards, ranks)
        self._optimizers: dict[Problem, RowOptimizer] = {}

    @contextmanager
    def standing(self) -> Iterator[None]:
        """A block of the engine's work, in which rows stand in the places of DTensors."""
        if self._stands:
            yield
            return
        entered: list[Any] = []
        try:
            self._stands = True
            self._refresh()
            for part in self._parts:
                entered.append(part)
                part.enter(self._rows)
            for optimizer in self._optimizers_now():
                entered.append(optimizer)
                optimizer.enter()
            with spread_over(self.spread), whole_reads(False), packed():
                yield
        finally:
            for each in reversed(entered):
                each.leave()
            self._stands = False

    def wrapped(self, key: Key, rows: Tensor) -> Any:
        """A DTensor of these rows, as the parameter of that key is one."""
        return like(self._parameters[key], rows)

    def rows_by_key(self) -> dict[Key, Tensor]:
        """The rows of each parameter."""
        return {key: self._rows[id(p)][1] for key, p in self._parameters.items()}

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Any:
        """A DTensor of a whole shape that lies as parameters do."""
        first = next(iter(self._parameters.values()))
        own = (Shard.of(shape, self.ranks).own, *shape[1:])
        return like(first, torch.empty(own, dtype=dtype, device=first.device), torch.Size(shape))

    def _refresh(self) -> None:
        """Find the memory of DTensors where it is now."""
        for root in self._roots:
            root.reshard()  # type: ignore[operator]
        for p, rows in self._rows.values():
            check_hooks(p)
            local = p._local_tensor
            if local.data_ptr() != rows.data_ptr() and local.numel():
                rows.data = local.detach()
            if rows.requires_grad != p.requires_grad:
                rows.requires_grad_(p.requires_grad)

    def _optimizers_now(self) -> Sequence[RowOptimizer]:
        found: list[RowOptimizer] = []
        for problem in self._graph.problems:
            optimizer = problem.optimizer
            if optimizer is None:
                continue
            known = self._optimizers.get(problem)
            check_optimizer(problem)
            if known is None or known.optimizer is not optimizer:
                known = self._optimizers[problem] = RowOptimizer(optimizer, self._rows)
            found.append(known)
        return found


class _Part:
    """A module with sharded parameters, or hooks of `fully_shard`, of its own."""

    def __init__(
        self, module: nn.Module, own: Mapping[str, Any], shards: Mapping[str, Shard], hooks: Any
    ) -> None:
        self._module, self._own, self._hooks = module, own, hooks
        self._slots = Slots(module._parameters, shards)
        self._before: dict[str, Any] = {}

    def enter(self, rows: Mapping[int, tuple[Any, Tensor]]) -> None:
        """Rows for DTensors; no hooks of `fully_shard`."""
        held, own = self._module.__dict__, self._own
        for key, p in own.items():
            if held["_parameters"].get(key) is not p:
                raise GraphError(
                    f"The sharded parameter {key} of a {type(self._module).__name__} is another "
                    "one than when the engine was made: the module was moved, cast, or given other "
                    "parameters. Write into it (load_state_dict), or make a new engine."
                )
        if own:
            for key, p in dict(held["_parameters"]).items():
                dict.__setitem__(self._slots, key, rows[id(p)][1] if key in own else p)
            for key in [k for k in self._slots if k not in held["_parameters"]]:
                del self._slots[key]
            self._before["_parameters"] = held["_parameters"]
            held["_parameters"] = self._slots
        for name in self._hooks:
            self._before[name] = held[name]
            kept = ((k, hook) for k, hook in held[name].items() if not _is_fsdps(hook))
            held[name] = OrderedDict(kept)

    def leave(self) -> None:
        """As it was; what has come meanwhile stays."""
        held = self._module.__dict__
        for name, before in self._before.items():
            if name == "_parameters":
                for key, p in dict(held[name]).items():
                    if key not in self._own:
                        before[key] = p
            held[name] = before
        self._before = {}


def _is_fsdps(hook: Any) -> bool:
    home = getattr(getattr(hook, "__func__", hook), "__module__", "") or ""
    return home.startswith("torch.distributed.fsdp.")


def _rows_of(parameter: Any, shard: Shard) -> Tensor:
    """The rows of a DTensor as a leaf, in its memory."""
    local = parameter._local_tensor.detach()
    if local.shape[:1] != (shard.own,):
        local = local.reshape(shard.own, *shard.shape[1:])
    rows = local.requires_grad_(parameter.requires_grad)
    marks = {k: v for k, v in vars(parameter).items() if not k.startswith("_")}
    vars(rows).update(marks)
    return rows

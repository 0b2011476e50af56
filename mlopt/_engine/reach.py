"""`reach`: what an object of the user's holds: tensors, containers, objects, and what is closed."""

from __future__ import annotations

import copy
import functools
import io
import logging
import random
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["Reached", "reach", "slots"]

#: What cannot change, or is no part of what holds it.
_ATOMS = (
    type(None), bool, int, float, complex, str, bytes, range, slice, type, torch.dtype,
    torch.device, torch.layout, torch.memory_format, np.generic, np.dtype, Enum, PurePath,
    types.FunctionType, types.BuiltinFunctionType, types.ModuleType, weakref.ref, property,
    logging.Logger,
)  # fmt: skip
# A look at the class tells it of what is met most: these are passed in every step.
_PLAIN = frozenset({type(None), bool, int, float, str, types.FunctionType})
_TENSORS = frozenset({Tensor, nn.Parameter})
_DICTS = frozenset({dict, OrderedDict, defaultdict})
_RANDOM = (torch.Generator, random.Random, np.random.RandomState, np.random.Generator)
_CLOSED = (io.IOBase,)
#: Objects of any class are followed this deep: what they hold may lead to the whole program.
_DEPTH = 2


@dataclass
class Reached:
    """What was reached, each thing once.

    Attributes:
        tensors: those of modules among them.
        arrays: of NumPy.
        containers: dictionaries (those of attributes among them), lists, deques, sets, byte arrays.
        slotted: objects that keep attributes in slots.
        random: generators of random numbers, of torch, NumPy or Python.
        closed: what nobody can look into, by the path to it: its class.
    """

    tensors: list[Tensor] = field(default_factory=list)
    arrays: list[np.ndarray] = field(default_factory=list)
    containers: list[Any] = field(default_factory=list)
    slotted: list[Any] = field(default_factory=list)
    random: list[Any] = field(default_factory=list)
    closed: dict[str, str] = field(default_factory=dict)


#: The way to something: that to what holds it, and the key or attribute there; a name at first.
_Way = tuple[Any, Any]


def reach(what: Any, name: str, known: dict[int, Any] | None = None) -> Reached:
    """Follow what an object holds.

    Keys of dictionaries are not followed, nor are the objects that a function closes over.

    Args:
        what: an optimizer, a scheduler.
        name: what paths begin with.
        known: objects that are not followed again, by id; what is reached is added.

    Returns:
        All of it, but for what was known.
    """
    known = {} if known is None else known
    out = Reached()
    if id(what) not in known and _own_optimizer(what, out, known):
        return out
    waiting: list[tuple[Any, _Way, int]] = [(what, (None, name), 0)]
    while waiting:
        held, way, depth = waiting.pop()
        if id(held) in known:
            continue
        known[id(held)] = held
        inside: Iterable[tuple[Any, Any]] = ()
        if isinstance(held, dict):
            out.containers.append(held)
            inside = held.items()
        elif isinstance(held, Tensor):
            out.tensors.append(held)
        elif isinstance(held, _ATOMS):
            pass
        elif isinstance(held, list | tuple | deque | set | frozenset):
            if not isinstance(held, tuple | frozenset):
                out.containers.append(held)
            inside = ((None, value) for value in held)
        elif isinstance(held, bytearray):
            out.containers.append(held)
        elif isinstance(held, np.ndarray):
            out.arrays.append(held)
        elif isinstance(held, _RANDOM):
            out.random.append(held)
        elif isinstance(held, types.MethodType):
            inside = ((None, held.__self__),)
        elif isinstance(held, nn.Module):
            inside = ((None, t) for t in (*held.parameters(), *held.buffers()))
        else:
            attributes = _attributes(held, out) if depth < _DEPTH else None
            if attributes is not None:
                inside = (("." + key, value) for key, value in attributes.items())
                depth += not isinstance(held, Optimizer | LRScheduler)
            elif not _immutable(held):
                out.closed[_written(way)] = type(held).__name__
        for key, value in inside:
            kind = type(value)
            if kind in _TENSORS:
                if id(value) not in known:
                    known[id(value)] = value
                    out.tensors.append(value)  # type: ignore[arg-type]
            elif kind in _DICTS and not value:  # most of what is registered with an optimizer
                if id(value) not in known:
                    known[id(value)] = value
                    out.containers.append(value)
            elif kind not in _PLAIN:
                waiting.append((value, (way, key), depth))
    return out


@functools.cache
def _parts() -> frozenset[str]:
    """What every optimizer has; a scheduler wraps its `step`."""
    # not at import: torch's first optimizer imports its compiler, which takes as long as all else
    return frozenset(vars(torch.optim.SGD([torch.zeros(1)], 0.1))) | {"step"}


def _own_optimizer(held: Any, out: Reached, known: dict[int, Any]) -> bool:
    """Follow an optimizer of torch's own, whose parts are known: this is done in every step.

    Returns:
        False if there is anything else in it, with nothing noted.
    """
    if not (isinstance(held, Optimizer) and type(held).__module__.startswith("torch.optim.")):
        return False
    if any(type(v) not in _PLAIN and k not in _parts() for k, v in held.__dict__.items()):
        return False
    containers: list[Any] = [held.__dict__, held.state, held.param_groups]
    tensors: list[Tensor] = []
    for group in held.param_groups:
        containers += [group, group["params"]]
        tensors += group["params"]
        for key, value in group.items():
            if key == "params" or type(value) in _PLAIN:
                continue
            if type(value) is tuple and all(type(v) in _PLAIN for v in value):
                continue
            if type(value) not in _TENSORS:
                return False
            tensors.append(value)  # type: ignore[arg-type]
    for state in held.state.values():
        containers.append(state)
        for value in state.values():
            if type(value) in _TENSORS:
                tensors.append(value)
            elif type(value) not in _PLAIN:
                return False
    new = {id(t): t for t in tensors if id(t) not in known}
    known.update(new)
    known.update({id(c): c for c in (held, *containers)})
    out.tensors += new.values()
    out.containers += containers
    return True


def slots(held: Any) -> dict[str, Any]:
    """The attributes that an object keeps in slots, by name."""
    return {name: getattr(held, name) for name in _slots(type(held)) if hasattr(held, name)}


@functools.lru_cache(256)
def _slots(kind: type) -> tuple[str, ...]:
    listed = (k.__dict__.get("__slots__", ()) for k in kind.__mro__)
    names = [name for some in listed for name in ((some,) if isinstance(some, str) else some)]
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _attributes(held: Any, out: Reached) -> dict[str, Any] | None:
    """The attributes of an object by name; None if nobody can look into it."""
    if isinstance(held, _CLOSED):
        return None
    in_slots, own = slots(held), getattr(held, "__dict__", None)
    if in_slots:
        out.slotted.append(held)
    if isinstance(own, dict):
        out.containers.append(own)
        return {**in_slots, **own}
    return in_slots or None


def _immutable(held: Any) -> bool:
    """Whether an object is what `copy` takes for one that cannot change."""
    try:
        return not hasattr(held, "__dict__") and copy.copy(held) is held
    except Exception:  # a class may refuse to be copied by any of them
        return False


def _written(way: _Way) -> str:
    before, step = way
    if before is None:
        return str(step)
    shown = step if isinstance(step, str) and step.startswith(".") else f"[{step!r}]"
    return _written(before) + ("[...]" if step is None else shown)

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

from .._containers.contents import (
    CONTAINERS,
    RANDOM,
    class_data,
    classes,
    entries,
    has_slots,
    slots,
)
from .._containers.homes import home

__all__ = ["Reached", "reach", "replaced_step"]

#: What cannot change, or is no part of what holds it.
_ATOMS = (
    type(None), bool, int, float, complex, str, bytes, range, slice, torch.dtype,
    torch.device, torch.layout, torch.memory_format, np.generic, np.dtype, Enum, PurePath,
    types.BuiltinFunctionType, types.ModuleType, weakref.ref, property, logging.Logger,
    random.SystemRandom,
)  # fmt: skip
# A look at the class tells it of what is met most: these are passed in every step.
_PLAIN = frozenset({type(None), bool, int, float, str})
_SIMPLE = _PLAIN | {list}
_TENSORS = frozenset({Tensor, nn.Parameter})
_DICTS = frozenset({dict, OrderedDict, defaultdict})
_BUILTIN = _DICTS | {list, deque, set}
_CLOSED = (io.IOBase,)
#: Objects of any class are followed this deep: what they hold may lead to the whole program.
_DEPTH = 2


@dataclass
class Reached:
    """What was reached, each thing once.

    Attributes:
        tensors: those of modules among them.
        arrays: of NumPy.
        containers: dictionaries (those of attributes among them), lists, deques, sets, byte arrays;
            objects that keep attributes in slots, cells of closures, classes that keep data.
        random: generators of random numbers, of torch, NumPy or Python, by the path to them.
        closed: what nobody can look into, by the path to it.
        sure: whether it leads to the same as long as the containers hold the same.
    """

    tensors: list[Tensor] = field(default_factory=list)
    arrays: list[np.ndarray] = field(default_factory=list)
    containers: list[Any] = field(default_factory=list)
    random: dict[str, Any] = field(default_factory=dict)
    closed: dict[str, Any] = field(default_factory=dict)
    sure: bool = True


#: The way to something: that to what holds it, and the key or attribute there; a name at first.
_Way = tuple[Any, Any]


def reach(what: Any, name: str, known: dict[int, Any] | None = None) -> Reached:
    """Follow what an object holds.

    Functions are followed into what they close over, bound methods into their objects, objects
    into the data of their classes; keys of dictionaries and global variables are not.

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
        if isinstance(held, Tensor):
            out.tensors.append(held)
            inside = ((None, vars(held)),)  # attributes of the user's
        elif isinstance(held, _ATOMS) or home(type(held)).startswith("mlopt._"):
            pass
        elif isinstance(held, CONTAINERS):
            out.containers.append(held)
            inside = (*entries(held), *_more(held))
        elif isinstance(held, type):
            if classes(held)[:1] == (held,):  # one of the user's
                out.containers.append(held)
                inside = class_data(held).items()
        elif isinstance(held, tuple | frozenset):
            inside = ((None, value) for value in held)
        elif isinstance(held, np.ndarray):
            inside = _of_array(held, out)
        elif isinstance(held, memoryview):
            inside = ((None, held.obj),)
        elif isinstance(held, RANDOM):
            out.random[_written(way)] = held
            inside = _more(held)
        elif isinstance(held, types.FunctionType | types.MethodType | functools.partial):
            out.sure &= not getattr(held, "__defaults__", None)  # which may be given anew
            inside = _of_function(held)
        elif isinstance(held, types.CellType):
            out.containers.append(held)
            inside = ((None, value) for value in slots(held).values())
        elif isinstance(held, nn.Module):
            inside = _of_module(held, out)
        else:
            attributes = _attributes(held, out) if depth < _DEPTH else None
            if attributes is not None:
                of_class = ((None, kind) for kind in classes(type(held)))
                inside = [*(("." + key, value) for key, value in attributes.items()), *of_class]
                depth += not isinstance(held, Optimizer | LRScheduler)
            elif not _immutable(held):
                out.closed[_written(way)] = held
        for key, value in inside:
            kind = type(value)
            if kind in _TENSORS:
                if id(value) not in known:
                    known[id(value)] = value
                    out.tensors.append(value)  # type: ignore[arg-type]
                    waiting.append((vars(value), (way, key), depth))  # attributes of the user's
            elif kind in _DICTS and not value:  # most of what is registered with an optimizer
                if id(value) not in known:
                    known[id(value)] = value
                    out.containers.append(value)
            elif kind not in _PLAIN:
                waiting.append((value, (way, key), depth))
    return out


def _own_optimizer(held: Any, out: Reached, known: dict[int, Any]) -> bool:
    """Follow an optimizer of torch's own, whose parts are known: this is done in every step.

    Returns:
        False if there is anything else in it, with nothing noted.
    """
    if not (isinstance(held, Optimizer) and home(type(held)).startswith("torch.optim.")):
        return False
    own = held.__dict__
    if any(type(own[k]) not in _PLAIN for k in own.keys() - _parts()) or replaced_step(held):
        return False
    hooks = held._optimizer_step_pre_hooks, held._optimizer_step_post_hooks
    if any(hooks):
        return False
    containers: list[Any] = [own, held.state, held.param_groups, *hooks]
    tensors: list[Tensor] = []
    for group in held.param_groups:
        containers += [group, group["params"]]
        tensors += group["params"]
        kinds = [*map(type, group.values())]
        if _SIMPLE.issuperset(kinds) and kinds.count(list) == 1:  # that of the parameters
            continue
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


@functools.cache
def _parts() -> frozenset[str]:
    """What every optimizer of torch has; a scheduler wraps its `step`."""
    # The first optimizer of a process imports torch's compiler, for which no import should wait.
    return frozenset(vars(torch.optim.SGD([torch.zeros(1)], 0.1))) | {"step"}


def replaced_step(optimizer: Any) -> bool:
    """Whether an optimizer's `step` is another than its class's: not that one, counted by torch."""
    step = optimizer.__dict__.get("step")
    if step is None:
        return False
    function = getattr(step, "__func__", step)
    # A wrapper of the user's takes over the names and attributes of what it wraps, not its globals.
    counts = getattr(function, "__globals__", {}).get("__name__") == "torch.optim.lr_scheduler"
    return not (counts and getattr(function, "__wrapped__", None) is type(optimizer).step)


def _more(held: Any) -> Iterable[tuple[Any, Any]]:
    """What a container or generator of a class of the user's holds besides."""
    return () if type(held) in _BUILTIN else [(None, getattr(held, "__dict__", None))]


def _of_array(held: np.ndarray, out: Reached) -> Iterable[tuple[Any, Any]]:
    """What an array leads to: the one that it is a view of, objects inside."""
    if held.flags.writeable:  # else whoever writes it has another way to its memory
        out.arrays.append(held)
    out.sure &= not held.dtype.hasobject
    base = [held.base] if isinstance(held.base, np.ndarray) else []
    return ((None, value) for value in (*base, *(held.flat if held.dtype.hasobject else ())))


def _of_function(held: Any) -> Iterable[tuple[Any, Any]]:
    """What a function keeps from one call to the next."""
    if isinstance(held, types.MethodType):
        parts: tuple[Any, ...] = (held.__self__, held.__func__)
    elif isinstance(held, functools.partial):
        parts = (held.func, held.args, held.keywords, held.__dict__)
    else:
        parts = (*(held.__closure__ or ()), held.__defaults__, held.__kwdefaults__, held.__dict__)
    return ((None, part) for part in parts)


def _of_module(held: nn.Module, out: Reached) -> Iterable[tuple[Any, Any]]:
    """What a module holds, but for hooks; of one of torch's own the numbers and tensors."""
    tensors = [(None, t) for t in (*held.parameters(), *held.buffers())]
    if isinstance(held, torch.jit.ScriptModule):
        out.sure = False
        return tensors
    own = _attributes(held, out) or {}
    inside = ("_parameters", "_buffers", "_modules")
    if not home(type(held)).startswith("torch."):
        inside = (*inside, *(own.keys() - _module_parts()))
    kinds = ((None, kind) for kind in classes(type(held)))
    return [*tensors, *(("." + key, own[key]) for key in inside), *kinds]


@functools.cache
def _module_parts() -> frozenset[str]:
    return frozenset(vars(nn.Module()))


def _attributes(held: Any, out: Reached) -> dict[str, Any] | None:
    """The attributes of an object by name; None if nobody can look into it."""
    if isinstance(held, _CLOSED):
        return None
    in_slots, own = slots(held), getattr(held, "__dict__", None)
    if has_slots(type(held)):
        out.containers.append(held)
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

"""`holds`: what a loader holds that matters to its passes: its generators, and its parts."""

from __future__ import annotations

import random
import types
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data.dataloader import _BaseDataLoaderIter

from .._containers.contents import slots
from .._containers.homes import home
from .workers import persistent

__all__ = ["attributes", "counts", "holds"]

#: A container of more entries holds data, not parts.
_MANY = 1000
#: What a loader is made of is found among so many objects, the nearest first.
_LOOKED_AT = 10_000
_ATOMS = (
    type(None), bool, int, float, complex, str, bytes, bytearray, range, slice, type, Tensor,
    np.ndarray, np.generic, np.dtype, torch.dtype, torch.device, types.ModuleType,
    _BaseDataLoaderIter,
)  # fmt: skip
_GENERATORS = (torch.Generator, random.Random, np.random.RandomState, np.random.Generator)
_RANDOM = (torch.Generator, random.Random, np.random.RandomState, np.random.BitGenerator)


def holds(loader: Any) -> tuple[list[Any], list[Any]]:
    """Follow what a loader holds: its data set, its samplers, their transforms, and so on.

    Attributes, containers, methods, and what functions close over are followed, the nearest first;
    of classes the generators in them. Containers of more than a thousand entries are not followed.

    Args:
        loader: anything that can be iterated.

    Returns:
        Its own generators of random numbers, of torch, Python and NumPy (the part that has the
        state); and its parts: what is iterated or indexed, and attributes of these; with data
        loaders whose workers stay, wherever they are.
    """
    generators: list[Any] = []
    parts: list[Any] = []
    known: dict[int, Any] = {}
    waiting = deque([(loader, True)])
    while waiting and len(known) < _LOOKED_AT:
        held, part = waiting.popleft()
        if isinstance(held, np.random.Generator):
            held = held.bit_generator
        if isinstance(held, _ATOMS) or id(held) in known:
            continue
        known[id(held)] = held
        if isinstance(held, _RANDOM):
            if not _everyones(held):
                generators.append(held)
            continue
        if part or persistent(held):
            parts.append(held)
        if part:
            part = hasattr(type(held), "__iter__") or hasattr(type(held), "__getitem__")
        waiting.extend((inside, part) for inside in _inside(held))
    return generators, parts


def attributes(parts: Iterable[Any]) -> list[Any]:
    """What a loader's parts have in attributes, numbers and data aside: others if one is replaced.

    This is much less to look at than what `holds` follows.

    Args:
        parts: of a loader.

    Returns:
        The objects, in the order of the parts.
    """
    return [
        value
        for part in parts
        for value in (*getattr(part, "__dict__", {}).values(), *slots(part).values())
        if not isinstance(value, _ATOMS)
    ]


def counts(parts: Iterable[Any]) -> dict[tuple[str, str], Any]:
    """Numbers and words in attributes of a loader's parts, by class and name; torch's own aside."""
    return {
        (type(part).__name__, name): value
        for part in parts
        if not home(type(part)).startswith("torch.")
        for name, value in getattr(part, "__dict__", {}).items()
        if type(value) in (int, float, str)
    }


def _everyones(generator: Any) -> bool:
    """Whether a generator is the whole process's, or has no state."""
    named = (torch.default_generator, getattr(random, "_inst", None), np.random.mtrand._rand)
    return any(generator is g for g in named) or isinstance(generator, random.SystemRandom)


def _inside(held: Any) -> Iterable[Any]:
    if isinstance(held, types.MethodType):
        return (held.__self__, held.__func__)
    if isinstance(held, types.BuiltinFunctionType):  # a method of what is written in C
        return (held.__self__,)
    if isinstance(held, partial):
        return (held.func, *held.args, *held.keywords.values(), *vars(held).values())
    if isinstance(held, types.FunctionType):
        cells = [cell.cell_contents for cell in held.__closure__ or () if _filled(cell)]
        return (*cells, *(held.__defaults__ or ()), *(held.__kwdefaults__ or {}).values())
    inside: list[Any] = []
    if isinstance(held, dict | list | tuple | deque | set | frozenset) and len(held) <= _MANY:
        inside += held.values() if isinstance(held, dict) else held
    own = getattr(held, "__dict__", None)
    if isinstance(own, dict):
        inside += own.values()
    for kind in type(held).__mro__:
        inside += [v for v in tuple(vars(kind).values()) if isinstance(v, _GENERATORS)]
        names = kind.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            member = kind.__dict__.get(name)
            if isinstance(member, types.MemberDescriptorType):
                with suppress(AttributeError):  # nothing is in it; its name may be a property's
                    inside.append(member.__get__(held))
    return inside


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:  # its variable is not bound yet
        return False
    return True

"""What containers, objects and generators hold: read, and put back, past what classes override.

A class may refuse to be written to, count its reads or do anything else: what is kept for an undo
is read and written by the methods of its bases in Python and NumPy alone.
"""

from __future__ import annotations

import functools
import random
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from functools import partial
from operator import is_
from typing import Any

import numpy as np
import torch

from .homes import home

__all__ = [
    "CONTAINERS", "RANDOM", "class_data", "classes", "contents", "entries", "has_slots", "put",
    "rewind", "slots", "stands",
]  # fmt: skip

CONTAINERS = (dict, list, deque, set, bytearray)
RANDOM = (torch.Generator, random.Random, np.random.RandomState, np.random.Generator)

_MISSING: Any = object()


def contents(held: Any) -> Any:
    """A copy of what a container holds, or of an object's slots, or of a class's data."""
    if isinstance(held, OrderedDict):
        return dict(OrderedDict.items(held))
    if isinstance(held, dict):
        return dict.copy(held)
    if isinstance(held, list):
        return list.copy(held)
    if isinstance(held, set):
        return set.copy(held)
    if isinstance(held, deque):
        return list(deque.__iter__(held))
    if isinstance(held, bytearray):
        return bytes(held)
    return class_data(held) if isinstance(held, type) else slots(held)


def stands(held: Any, content: Any) -> bool:
    """Whether a container surely holds what `contents` has copied: the very same things."""
    if isinstance(held, dict):
        now = contents(held)
        keys = len(now) == len(content) and all(map(is_, now, content))
        return keys and all(map(is_, now.values(), content.values()))
    if isinstance(held, list):
        return len(held) == len(content) and all(map(is_, list.__iter__(held), content))
    return False


def put(held: Any, content: Any) -> None:
    """Put back what `contents` has copied."""
    if isinstance(held, OrderedDict):
        OrderedDict.clear(held)
        for key, value in content.items():
            OrderedDict.__setitem__(held, key, value)
    elif isinstance(held, dict):
        dict.clear(held)
        dict.update(held, content)
    elif isinstance(held, list):
        list.__setitem__(held, slice(None), content)
    elif isinstance(held, set):
        set.clear(held)
        set.update(held, content)
    elif isinstance(held, deque):
        deque.clear(held)
        deque.extend(held, content)
    elif isinstance(held, bytearray):
        bytearray.__setitem__(held, slice(None), content)
    elif isinstance(held, type):
        _put_each(
            class_data(held), content, partial(type.__setattr__, held),
            partial(type.__delattr__, held),
        )  # fmt: skip
    else:
        places = dict(_slots(type(held)))
        _put_each(
            slots(held), content, lambda name, value: places[name].__set__(held, value),
            lambda name: places[name].__delete__(held),
        )  # fmt: skip


def entries(held: Any) -> Iterable[tuple[Any, Any]]:
    """Keys and values of a container; what has no keys has None."""
    if isinstance(held, dict):
        return dict.items(held)
    if isinstance(held, bytearray):
        return ()
    return ((None, value) for value in contents(held))


def slots(held: Any) -> dict[str, Any]:
    """The attributes that an object keeps in slots, by name; of a closure's cell what is in it."""
    found: dict[str, Any] = {}
    for name, place in _slots(type(held)):
        try:
            found[name] = place.__get__(held)
        except (AttributeError, ValueError):  # there is nothing in it
            continue
    return found


@functools.lru_cache(256)
def _slots(kind: type) -> tuple[tuple[str, Any], ...]:
    if kind is types.CellType:
        return (("cell_contents", kind.__dict__["cell_contents"]),)
    return tuple(
        (name, place)
        for base in kind.__mro__ if "__slots__" in base.__dict__
        for name, place in base.__dict__.items() if isinstance(place, types.MemberDescriptorType)
    )  # fmt: skip


def has_slots(kind: type) -> bool:
    """Whether the objects of a class have any."""
    return bool(_slots(kind))


#: Classes of these keep nothing of a step in themselves.
_LIBRARIES = frozenset({*sys.stdlib_module_names, "builtins", "mlopt", "numpy", "torch"})


@functools.lru_cache(256)
def classes(kind: type) -> tuple[type, ...]:
    """A class and its bases, as far as the user has written them."""
    return tuple(k for k in kind.__mro__ if home(k).partition(".")[0] not in _LIBRARIES)


#: What of a class is no part of its definition.
_DATA = (*CONTAINERS, *RANDOM, bool, int, float, complex, str, tuple, type(None), torch.Tensor,
         np.ndarray)  # fmt: skip


def class_data(kind: type) -> dict[str, Any]:
    """What a class of the user's holds in attributes of its own, by name."""
    if kind not in classes(kind):
        return {}
    return {
        name: value
        for name, value in type.__getattribute__(kind, "__dict__").items()
        if isinstance(value, _DATA) and not (name.startswith("__") and name.endswith("__"))
    }


def rewind(held: Any) -> Callable[[], Any]:
    """What puts a generator of random numbers back to where it stands."""
    if isinstance(held, torch.Generator):
        return partial(held.set_state, held.get_state())
    if isinstance(held, random.Random):
        return partial(random.Random.setstate, held, random.Random.getstate(held))
    if isinstance(held, np.random.RandomState):
        return partial(held.set_state, held.get_state())
    bits = held.bit_generator
    return partial(setattr, bits, "state", bits.state)


def _put_each(
    now: dict[str, Any],
    before: dict[str, Any],
    put: Callable[[str, Any], None],
    drop: Callable[[str], None],
) -> None:
    for name in now.keys() - before.keys():
        drop(name)
    for name, value in before.items():
        if now.get(name, _MISSING) is not value:
            put(name, value)

"""Process groups of torch, used so that they end where torch ends them.

A thread of gloo lets go of a collective's tensors when it is done with them, for which it takes
Python's lock: where the interpreter is ending, that aborts the process (pytorch issue 190489). Two
laws keep threads from it. A group is not held here, so that `destroy_process_group()` joins them.
And what a failed run leaves under way, for which they may wait as long as the others live, is let
go by nobody, nor is its group, which would wait for them.
"""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["control_of", "is_there", "leave_for_ever", "lightly", "store_of"]

_controls: weakref.WeakKeyDictionary[Any, Callable[[], Any]] = weakref.WeakKeyDictionary()


def is_there() -> bool:
    """Whether there is a default group."""
    return dist.is_available() and dist.is_initialized()


def lightly(group: Any) -> Callable[[], Any]:
    """What gives a group as long as torch has it, and None afterwards."""
    return weakref.ref(group)


def control_of(group: Any) -> Any:
    """A group of the same ranks by which the host's numbers go."""
    found = _controls[group]() if group in _controls else None
    if found is None:
        found = group if _has_gloo(group) else _new_control(group)
        _controls[group] = lightly(found)
    return found


def store_of(group: Any) -> Any:
    """By which ranks tell one another what is no collective."""
    with contextlib.suppress(Exception):
        return dist.distributed_c10d._get_process_group_store(group)
    return None


def leave_for_ever(things: Iterable[Any]) -> None:
    """Keep groups, and works that will not be waited for, beyond the end of the interpreter."""
    for thing in things:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _has_gloo(group: Any) -> bool:
    with contextlib.suppress(RuntimeError):
        return group._get_backend(torch.device("cpu")).name() == "gloo"
    return False


def _new_control(group: Any) -> Any:
    members = dist.get_process_group_ranks(group)
    return dist.new_group(members, backend="gloo", use_local_synchronization=True)

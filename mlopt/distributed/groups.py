"""Process groups of torch, used so that they end where torch ends them.

A thread of gloo lets go of a collective's tensors when it is done with them, for which it takes
Python's lock: where the interpreter is ending, that aborts the process (pytorch issue 190489).
Three laws keep threads from it. A group is not held here, so that `destroy_process_group()` joins
them (but where an older torch does so without giving them the lock, and both would wait). At the
end of a process they get the lock, should they wait for it. And what a failed run leaves under way,
for which they may wait as long as the others live, is let go by nobody, nor is its group, which
would wait for them.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["control_of", "has_gloo", "is_there", "leave_for_ever", "lightly", "store_of"]

#: Seconds that threads of gloo get for what takes them microseconds when they have the lock.
_LAST_MOMENT = 0.2

_HOST = torch.device("cpu")
#: Since pull request 154976 of pytorch, the end of a group leaves Python's lock to its threads.
_GIVES_WAY = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 9)
_controls: weakref.WeakKeyDictionary[Any, Callable[[], Any]] = weakref.WeakKeyDictionary()


def is_there() -> bool:
    """Whether there is a default group."""
    return dist.is_available() and dist.is_initialized()


def lightly(group: Any) -> Callable[[], Any]:
    """What gives a group as long as torch has it, and None afterwards."""
    _give_way_at_the_end()
    return weakref.ref(group) if _GIVES_WAY else lambda: group


def has_gloo(group: Any, device: torch.device) -> bool:
    """Whether tensors of a device go by gloo, which is for the host to wait for."""
    with contextlib.suppress(RuntimeError):
        return group._get_backend(device).name() == "gloo"
    return False


def control_of(group: Any) -> Any:
    """A group of the same ranks by which the host's numbers go."""
    found = _controls[group]() if group in _controls else None
    if found is None:
        found = group if has_gloo(group, _HOST) else _new_control(group)
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


@functools.cache
def _give_way_at_the_end() -> None:
    atexit.register(time.sleep, _LAST_MOMENT)  # without Python's lock


def _new_control(group: Any) -> Any:
    members = dist.get_process_group_ranks(group)
    return dist.new_group(members, backend="gloo", use_local_synchronization=True)

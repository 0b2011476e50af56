"""`turn`: what the whole process shares with an engine at work is touched by one at a time."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

__all__ = ["turn", "waits"]

_F = TypeVar("_F", bound=Callable[..., Any])

#: Held while an engine works, for evaluations use torch's generators, and swap other values into
#: the users' modules. Whoever holds it may take it again, so an engine may work inside the work of
#: another.
turn = threading.RLock()
# A child is forked without the thread that may hold it, which would never give it back there.
_begin_anew = getattr(turn, "_at_fork_reinit", None)  # of CPython
if _begin_anew is not None and hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def waits(function: _F) -> _F:
    """Have a function wait until no other thread's engine works: it looks at users' modules."""

    @functools.wraps(function)
    def wait(*args: Any, **kwargs: Any) -> Any:
        with turn:
            return function(*args, **kwargs)

    return cast(_F, wait)

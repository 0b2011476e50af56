"""`have_turn`: what the whole process shares with an engine at work is touched by one at a time."""

from __future__ import annotations

import functools
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import Any, TypeVar, cast

from ._errors import CapabilityWarning, GraphError

__all__ = ["have_turn", "waits"]

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])

#: After so many seconds of waiting for the turn, it is said who has it.
PATIENCE = 30.0

# Of the thread whose turn it is, which does not take it again for work inside its work.
_lock = threading.RLock()
_held: tuple[int, float, str] | None = None  # by which thread, since when, and for what


def have_turn(work: str, function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
    """Call a function while no other thread's engine works.

    Evaluations use torch's generators, and swap other values into the users' modules. An engine may
    work inside the work of another.

    Args:
        work: what is done meanwhile, for the threads that wait.
        function: what is called.
        *args: its arguments.
        **kwargs: its arguments by name.

    Returns:
        What it returns.

    Raises:
        GraphError: the thread whose turn it is waits for the end of this one.
    """
    global _held
    here = threading.get_ident()
    if _held is not None and _held[0] == here:
        return function(*args, **kwargs)
    # An interrupt comes when a call has returned: the turn is then taken, and nothing says so. So
    # nothing is called at the end before the turn is given back, whether it was taken or not.
    try:
        if not _lock.acquire(blocking=False):
            _wait(work)
        _held = here, monotonic(), work
        return function(*args, **kwargs)
    finally:
        if _held is not None and _held[0] == here:
            _held = None
        try:  # noqa: SIM105 - which calls something before
            _lock.release()
        except RuntimeError:  # it was not taken
            pass


def waits(function: _F) -> _F:
    """Have a function wait until no other thread's engine works: it looks at users' modules."""
    work = f"{function.__qualname__}()"

    @functools.wraps(function)
    def wait(*args: Any, **kwargs: Any) -> Any:
        return have_turn(work, function, *args, **kwargs)

    return cast(_F, wait)


def _wait(work: str) -> None:
    """Take the turn when it is given back; who waits for long says for whom."""
    said = False
    while not _lock.acquire(timeout=PATIENCE):
        held = _held
        if held is None:  # it has just been taken, or given back
            continue
        frame = sys._current_frames().get(held[0])
        names = {t.ident: t.name for t in threading.enumerate()}
        holder = f"thread {names.get(held[0], held[0])!r}, in {held[2]} since "
        holder += f"{monotonic() - held[1]:.0f} s"
        stands = "".join(traceback.format_stack(frame, 4)) if frame is not None else ""
        me = f"{work}: thread {threading.current_thread().name!r} waits for its turn, which"
        if _awaits(frame, threading.current_thread()) and _held is held:  # still, so for ever
            raise GraphError(
                f"{me} {holder} has, and that one waits for the end of this thread: neither would "
                "ever go on. Let no objective, loader, callback or validate= wait for a thread "
                f"whose engine works; wait for it when the run is over. It stands at\n{stands}"
            )
        if not said:
            said = True
            warnings.warn(
                f"{me} {holder} still has: engines of all threads work one at a time. If that one "
                "waits for this one, neither will ever go on: let no objective, loader, callback "
                f"or validate= wait for a thread whose engine works. It stands at\n{stands}",
                CapabilityWarning,
                stacklevel=4,
            )


def _awaits(frame: FrameType | None, thread: threading.Thread) -> bool:
    """Whether a thread that stands there goes on only after the end of another: it joins it."""
    while frame is not None:
        if frame.f_code is threading.Thread.join.__code__:
            asked = frame.f_locals
            return asked.get("self") is thread and asked.get("timeout") is None
        frame = frame.f_back
    return False


def _begin_anew() -> None:
    """A child is forked without the thread that may have the turn, which never gives it back."""
    global _lock, _held
    _lock, _held = threading.RLock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)

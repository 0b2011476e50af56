"""Children that are forked from the test's process, and ended before the test is."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


def fork(work: Callable[[], object]) -> int:
    """Start `work` in a child, whose exit status is 0 if it returns; the child's id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def ended(child: int) -> int:
    """Wait for a child; its exit status, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(child: int) -> None:
    """End a child as a machine does that kills a job."""
    os.kill(child, signal.SIGKILL)
    ended(child)


def killed_at(line: int, files: str | tuple[str, ...], work: Callable[[], object]) -> bool:
    """Whether a child that is killed at so many lines of some files gets that far in its work.

    Args:
        line: how many of these lines the child runs first.
        files: the ends of their names.
        work: what the child does.

    Returns:
        False if it ended before.
    """

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal line
        if not frame.f_code.co_filename.endswith(files):
            return None
        line -= event == "line"
        if line < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    def traced() -> None:
        sys.settrace(trace)
        work()

    status = ended(fork(traced))
    assert status in (0, -signal.SIGKILL)
    return status != 0


@contextlib.contextmanager
def running(work: Callable[[Callable[[], None]], object]) -> Iterator[int]:
    """A child that has called what it was given, which says that it is ready; killed at the end."""
    read, write = os.pipe()
    child = fork(lambda: work(lambda: os.write(write, b"x") and None))
    os.close(write)
    try:
        os.read(read, 1)
        yield child
    finally:
        os.close(read)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            kill(child)

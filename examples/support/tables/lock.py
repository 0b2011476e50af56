"""A lock that a process holds on what it runs, for the processes beside it."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


class Taken(Exception):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; the system opens the lock of a process that has ended, however it did.

    Raises:
        Taken: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Taken from None
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock file."""
    if not path.is_file():
        return False
    try:
        with locked(path):
            return False
    except Taken:
        return True

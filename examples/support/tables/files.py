"""How the files of a table are written, and the lock that a process holds on what it runs.

Several processes work on one table: a file is whole whenever another one reads it, and a lock is
open again when its process has ended, however it did.
"""

from __future__ import annotations

from pathlib import Path

from mlopt._files import Lock, Taken, is_taken, write_file

__all__ = ["Taken", "is_taken", "locked", "save"]


def save(path: Path, text: str) -> Path:
    """Write a file whole or not at all; several processes may write the same one."""
    write_file(path, text)
    return path


def locked(path: Path) -> Lock:
    """Hold a lock file, as a context manager; entering raises `Taken` if somebody else does."""
    return Lock(path, path.parent / path.stem.removeprefix("."))

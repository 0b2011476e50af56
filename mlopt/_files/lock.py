"""`Lock`: the right to write a file or folder, which ends with its process."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
import warnings
import weakref
from pathlib import Path

from .._errors import CapabilityWarning, SettingsError
from .atomic import said

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["Lock", "Taken", "is_taken"]

#: What `flock` says on a file system that has no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}


class Taken(SettingsError):
    """Somebody else writes to the file or folder."""


class Lock:
    """The right to write a file or folder, which one holder has at a time.

    The system opens the lock of a process that has ended, however it did. A forked child, such as
    a loader's worker, does not inherit it, and a program that is started does not either. A lock
    file is empty; it is removed by its holder, and one that a killed process leaves locks nothing.

    Where the file system has no locks, a warning says so and everyone gets the right.

    Args:
        path: the lock file; missing folders are made.
        of: what it protects, for the message.
        content: whether the file is the one to protect, which stays. All names of it, hard links
            among them, have this lock; not for Windows, where a lock also keeps readers out.
    """

    def __init__(self, path: str | Path, of: str | Path, *, content: bool = False) -> None:
        self.path, self.of, self._content = Path(os.path.abspath(path)), of, content
        self._descriptor: int | None = None
        self._release: weakref.finalize[..., Lock] | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds it."""
        return self._descriptor is not None

    @property
    def lost(self) -> bool:
        """Whether somebody has removed its file meanwhile, so that others may take the right."""
        return self.held and not _leads_to(self.path, self._descriptor)

    def acquire(self) -> Lock:
        """Take it; again is fine.

        Returns:
            This object.

        Raises:
            Taken: somebody else holds it.
            SettingsError: the lock file cannot be made.
        """
        if self.held:
            return self
        with said(self.path, "written"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _locked(self.path)
            if descriptor is None:  # somebody may only have asked, see `is_taken`
                time.sleep(0.01)
                descriptor = _locked(self.path)
        if descriptor is None:
            here = any(_leads_to(self.path, other._descriptor) for other in _held)
            who = "this process already writes to it" if here else "another process writes to it"
            raise Taken(
                f"{self.of}: {who}. Wait until that is closed or has ended, or give another place."
            )
        self._descriptor = descriptor
        path = None if self._content else self.path
        self._release = weakref.finalize(self, _unlock, descriptor, path, os.getpid())
        _held.add(self)
        return self

    def release(self) -> None:
        """Give it back; again is fine."""
        if self._release is not None:
            self._release()
        self._forget()

    def _forget(self) -> None:
        self._descriptor = self._release = None
        _held.discard(self)

    def __enter__(self) -> Lock:
        return self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()


_held: weakref.WeakSet[Lock] = weakref.WeakSet()


def _in_child() -> None:
    """A copy of the descriptor would keep the lock when the parent has ended: close it."""
    for lock in list(_held):
        if lock._descriptor is not None:
            os.close(lock._descriptor)
        if lock._release is not None:
            lock._release.detach()
        lock._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def is_taken(path: str | Path) -> bool:
    """Whether somebody holds the lock of this file, in this process or another; nothing is changed.

    Args:
        path: the lock file.

    Returns:
        False also where there is no such file, or it cannot be asked.
    """
    path = Path(path)
    if any(_leads_to(path, lock._descriptor) for lock in _held):
        return True
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # let go when it is closed
    except OSError as error:
        return error.errno not in _NO_LOCKS
    finally:
        os.close(descriptor)
    return False


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock of the file of this name; None if somebody else does."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path, flags, 0o666)
        try:
            if not _try(descriptor, path):
                os.close(descriptor)
                return None
            # the holder before may have removed the file that was opened here
            if _leads_to(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _leads_to(path: Path, descriptor: int | None) -> bool:
    """Whether the file of this name is the one that is open."""
    try:
        return descriptor is not None and os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _try(descriptor: int, path: Path) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            return False
        warnings.warn(
            f"{path.parent}: this file system has no locks ({error.strerror}). Take care that one "
            f"process alone writes there.",
            CapabilityWarning,
            stacklevel=4,
        )
    return True


def _unlock(descriptor: int, path: Path | None, owner: int) -> None:
    """Close it, and remove the file of this name, if one is given."""
    if os.getpid() != owner:
        return
    with contextlib.suppress(OSError):
        ours = path is not None and sys.platform != "win32" and _leads_to(path, descriptor)
        if path is not None and ours and os.fstat(descriptor).st_size == 0:
            path.unlink()  # while it is still locked: who has it open finds another one
    with contextlib.suppress(OSError):
        os.close(descriptor)
    if path is not None and sys.platform == "win32":
        with contextlib.suppress(OSError):
            path.unlink()

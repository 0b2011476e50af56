"""The files of a run: whole or not there, checked by a sum when read, with one writer at a time."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import sys
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path

from mlopt._errors import CapabilityWarning, SettingsError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["Lock", "Taken", "is_part", "read_checked", "remove_parts", "said", "write_file"]

_MARK = b"\0mlopt:blake2b:\0"
_SUM = 32  # bytes of the checksum, which follow the mark at the end of a file
_PART = re.compile(r"\..*\.[0-9a-f]{16}\.part")
_ADVICE = {
    errno.EACCES: "Give this user the right to it, or another place.",
    errno.EPERM: "Give this user the right to it, or another place.",
    errno.EROFS: "Give a place on a disk that can be written to.",
    errno.ENOSPC: "Make room on the disk, or give a place on another one.",
    errno.EDQUOT: "Make room in the quota, or give a place on another disk.",
    errno.EISDIR: "It is a folder: give the name of a file.",
    errno.ENOTDIR: "A part of it is a file, not a folder: give another place.",
    errno.EEXIST: "A part of it is a file, not a folder: give another place.",
    errno.ENAMETOOLONG: "Give a shorter name.",
    errno.ENOENT: "Its folder is gone, or can hold nothing new: make it, or give another place.",
}
#: What `flock` says on a file system that has no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}


def write_file(
    path: str | Path, content: bytes | memoryview | str, *, checksum: bool = False
) -> None:
    """Write a file so that its name stands for the old content or the new, whenever it is read.

    The content goes to a file of a name that nobody else has, from there to the disk, and then
    takes the name: neither a kill nor a second writer leaves half of it, and nor does a machine
    that loses its power. A link is replaced; what it points to stays as it is.

    Args:
        path: the file; missing folders are made.
        content: bytes, or text to write as UTF-8.
        checksum: whether to append the sum that `read_checked` asks for. What is a zip archive
            without it is one with it, so `torch.load` reads the file too.

    Raises:
        SettingsError: it cannot be written; a file that was there is as it was.
    """
    path = Path(path)
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    half = path.with_name(f".{path.name[:80]}.{secrets.token_hex(8)}.part")
    with said(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with half.open("xb") as file:
                file.write(data)
                if checksum:
                    file.write(_MARK + _sum(data))
                file.flush()
                os.fsync(file.fileno())
            os.replace(half, path)
        except BaseException:
            with contextlib.suppress(OSError):
                half.unlink()
            raise
        _to_disk(path.parent)


def read_checked(path: str | Path) -> bytes | None:
    """Read what `write_file` wrote with a checksum.

    Args:
        path: the file.

    Returns:
        The content, or None if there is no such file.

    Raises:
        SettingsError: it cannot be read, has no checksum at its end, or another one than its bytes
            have. No bit of it is then given out.
    """
    with said(path, "read"):
        try:
            data = Path(path).read_bytes()
        except FileNotFoundError:
            return None
    content, end = data[: -len(_MARK) - _SUM], data[-len(_MARK) - _SUM :]
    if not end.startswith(_MARK):
        raise SettingsError(
            f"{path}: has no checksum at its end, so it was cut off, or mlopt did not write it."
        )
    if end[len(_MARK) :] != _sum(content):
        raise SettingsError(
            f"{path}: is damaged: the checksum at its end is not that of its bytes."
        )
    return content


def remove_parts(path: str | Path) -> None:
    """Remove what killed writers of a file have left beside it.

    Args:
        path: the file; who calls this holds the lock of its writer.
    """
    path = Path(path)
    for part in path.parent.glob(".*.part"):
        if is_part(part) and part.name.startswith(f".{path.name[:80]}."):
            with contextlib.suppress(OSError):
                part.unlink()


def is_part(path: Path) -> bool:
    """Whether it is what a killed writer has left of a file, by its name."""
    return _PART.fullmatch(path.name) is not None


@contextlib.contextmanager
def said(path: str | Path, what: str) -> Iterator[None]:
    """Say of an error of the system which file cannot be `what`, why, and what to do.

    Args:
        path: the file or folder.
        what: for example "read".

    Raises:
        SettingsError: in the place of an OSError, and of a ValueError for what can name no file.
    """
    if "\0" in str(path):
        raise SettingsError(f"{str(path)!r} cannot be {what}: no name of a file has a NUL in it.")
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        advice = _ADVICE.get(error.errno or 0, "Give another place.")
        raise SettingsError(f"{path}: cannot be {what} ({reason}). {advice}") from error


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
        if path is not None and os.fstat(descriptor).st_size == 0 and sys.platform != "win32":
            path.unlink()  # while it is still locked: who has it open finds another one
    with contextlib.suppress(OSError):
        os.close(descriptor)
    if path is not None and sys.platform == "win32":
        with contextlib.suppress(OSError):
            path.unlink()


def _sum(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=_SUM).digest()


def _to_disk(folder: Path) -> None:
    """Make a new name as lasting as its file; Windows opens no folders."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # some network file systems sync no folders
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

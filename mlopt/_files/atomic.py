"""Files that are whole or not there, with a sum by which harm to them is found."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from .._errors import SettingsError

__all__ = ["Damaged", "is_part", "read_checked", "remove_parts", "said", "write_file"]

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


class Damaged(SettingsError):
    """A file is not what was written, or mlopt has not written it."""


def write_file(
    path: str | Path,
    content: bytes | memoryview | str,
    *,
    checksum: bool = False,
    before: str | Path | None = None,
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
        before: what the old content is kept as, if there is any; in the same folder.

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
            if before is not None:
                _keep(path, Path(before))
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
        Damaged: it has no checksum at its end, or another one than its bytes have. No bit of it is
            then given out.
        SettingsError: it cannot be read.
    """
    with said(path, "read"):
        try:
            data = Path(path).read_bytes()
        except FileNotFoundError:
            return None
    content, end = data[: -len(_MARK) - _SUM], data[-len(_MARK) - _SUM :]
    if not end.startswith(_MARK):
        raise Damaged(
            f"{path}: has no checksum at its end, so it was cut off, or mlopt did not write it."
        )
    if end[len(_MARK) :] != _sum(content):
        raise Damaged(f"{path}: is damaged: the checksum at its end is not that of its bytes.")
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


def _keep(path: Path, before: Path) -> None:
    """Give a file a second name, too: there is never none of the first name."""
    spare = path.with_name(f".{path.name[:80]}.{secrets.token_hex(8)}.part")
    try:
        try:
            os.link(path, spare)
        except FileNotFoundError:
            return
        except OSError:  # of a file system without second names
            shutil.copyfile(path, spare)
        os.replace(spare, before)
    except BaseException:
        with contextlib.suppress(OSError):
            spare.unlink()
        raise


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

"""Archives: tensors and plain values in a file, with its kind, its format and a checksum."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .._errors import SettingsError, exhausted
from .atomic import Damaged, read_checked, write_file

__all__ = ["OtherFormat", "read_archive", "write_archive"]


class OtherFormat(SettingsError):
    """A file is whole, and another version of mlopt has written it."""


def write_archive(
    path: Path,
    kind: str,
    version: int,
    content: Mapping[str, Any],
    before: Path | None = None,
) -> None:
    """Write tensors and plain values, the whole file or nothing of it; `torch.load` reads it, too.

    Args:
        path: the file; missing folders are made.
        kind: what it holds.
        version: of the format of that.
        content: of it, by name.
        before: what the old file is kept as.

    Raises:
        SettingsError: it cannot be written; the old file is as it was.
    """
    buffer = io.BytesIO()
    torch.save({"mlopt": kind, "format": version, **content}, buffer)
    with buffer.getbuffer() as view:  # else an error that is kept keeps it open
        write_file(path, view, checksum=True, before=before)


def read_archive(path: Path, kind: str, version: int) -> dict[str, Any] | None:
    """Read what `write_archive` wrote, on the CPU; nothing that a file holds is run.

    Args:
        path: the file.
        kind: what it has to hold.
        version: the format that is known.

    Returns:
        What was written; None if there is no file.

    Raises:
        Damaged: it is not as it was written, or something else.
        OtherFormat: another version of mlopt has written it.
        SettingsError: it cannot be read.
    """
    data = read_checked(path)
    if data is None:
        return None
    try:
        _check_sizes(data)
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        holds, found = content["mlopt"], content["format"]
    except Exception as error:  # whatever a file can hold that is no such archive
        if exhausted(error) and not isinstance(error, RecursionError):
            raise SettingsError(
                f"{path}: cannot be read: it takes more memory than there is. Make room, or give "
                "another place to start anew."
            ) from error
        raise Damaged(f"{path}: is no {kind} ({type(error).__name__}).") from error
    if holds != kind:
        raise Damaged(f"{path}: is no {kind}, but a {holds}.")
    if found != version:
        raise OtherFormat(
            f"{path}: has the format {found}, and this mlopt reads {version}. Go on with the "
            "version of mlopt that has written it, or give another place to start anew."
        )
    return content


def _check_sizes(data: bytes) -> None:
    """Whether parts of a file, and tensors in them, have the sizes that they say to have."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    parts = archive.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise ValueError("it is compressed")
    if sum(part.file_size for part in parts) > len(data):
        raise ValueError("its parts are larger than the file")
    # Not every version of torch looks at it: some read beyond a part that is too short.
    sizes = {part.filename.rpartition("/data/")[2]: part.file_size for part in parts}
    for name in archive.namelist():
        if name.endswith("data.pkl"):
            claims = _Claims(io.BytesIO(archive.read(name)))
            claims.load()
            if any(not 0 <= size <= sizes[key] for key, size in claims.found):
                raise ValueError("a tensor is larger than its part")


class _Anything:
    """Stands for whatever a file makes; it does nothing."""

    def __new__(cls, *arguments: object) -> _Anything:
        return object.__new__(cls)

    def __init__(self, *arguments: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...


class _Claims(pickle.Unpickler):
    """Reads which tensors a file says to hold, by their parts, and how many bytes of each.

    It imports nothing, calls nothing, and makes nothing but containers and numbers.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.found: list[tuple[str, int]] = []

    def find_class(self, module: str, name: str) -> Any:
        return type(name, (_Anything,), {})

    def persistent_load(self, pid: Any) -> Any:
        _, kind, key, _, count = pid
        storage = getattr(torch, kind.__name__)
        dtype = torch.uint8 if storage is torch.UntypedStorage else storage._dtype
        self.found.append((key, count * dtype.itemsize))
        return _Anything()

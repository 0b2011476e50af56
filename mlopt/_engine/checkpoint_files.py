"""The files of checkpoints: written whole, checked when read, the newest good one first."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .._errors import CapabilityWarning, SettingsError, exhausted
from .._files import read_checked, said, write_file

__all__ = ["checkpoints", "newest", "remove_old", "write_checkpoint"]

FORMAT = 1

_NAME = re.compile(r"step_(\d{10,})\.ckpt")


class _OtherFormat(SettingsError):
    """A checkpoint is whole, and another version of mlopt has written it."""


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints in a folder by their steps, the newest first; none if it is not there."""
    with said(folder, "read"):
        names = [p for p in folder.iterdir() if p.is_file()] if folder.is_dir() else []
    found = ((_NAME.fullmatch(path.name), path) for path in names)
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def write_checkpoint(folder: Path, step: int, content: Mapping[str, Any]) -> Path:
    """Write a checkpoint, the whole file or nothing of it.

    Args:
        folder: made if it is not there.
        step: after which it is taken.
        content: tensors and plain values.

    Returns:
        The file.

    Raises:
        SettingsError: it cannot be written; the earlier ones are as they were.
    """
    path, buffer = folder / f"step_{step:010d}.ckpt", io.BytesIO()
    torch.save({"mlopt": "checkpoint", "format": FORMAT, **content}, buffer)
    with buffer.getbuffer() as view:  # else an error that is kept keeps it open
        write_file(path, view, checksum=True)
    return path


def remove_old(folder: Path, keep: int) -> None:
    """Leave the newest ones alone in a folder."""
    for _, path in checkpoints(folder)[keep:]:
        with said(path, "removed"):
            path.unlink(missing_ok=True)


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Read the newest checkpoint of a folder; where that is damaged, the one before.

    Args:
        folder: of a run.

    Returns:
        The file, and its content on the CPU; None if there is none.

    Raises:
        SettingsError: none of them can be read, or the newest is of another version of mlopt.
    """
    damaged: list[str] = []
    for _, path in checkpoints(folder):
        try:
            content = _read(path)
        except SettingsError as error:
            # nobody has said that it is damaged
            if isinstance(error.__cause__, OSError) or isinstance(error, _OtherFormat):
                raise
            damaged.append(str(error))
            continue
        if damaged:
            warnings.warn(
                f"{' '.join(damaged)} The run goes on from {path.name}, which was saved before.",
                CapabilityWarning,
                stacklevel=2,
            )
        return path, content
    if damaged:
        raise SettingsError(
            f"{' '.join(damaged)} No checkpoint before it is left: remove the folder's files to "
            "start anew, or give another folder."
        )
    return None


def _read(path: Path) -> dict[str, Any]:
    data = read_checked(path)
    if data is None:
        raise SettingsError(f"{path}: is gone.")
    try:
        _check_sizes(data)
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if content["mlopt"] != "checkpoint":
            raise KeyError("mlopt")
        version = content["format"]
    except Exception as error:  # whatever a file can hold that is no checkpoint
        if exhausted(error):
            raise
        raise SettingsError(
            f"{path}: is no checkpoint of an engine ({type(error).__name__})."
        ) from error
    if version != FORMAT:
        raise _OtherFormat(
            f"{path}: has the format {version}, and this mlopt reads {FORMAT}. Go on with the "
            "version of mlopt that has written it, or give another folder for a new run."
        )
    return content


def _check_sizes(data: bytes) -> None:
    """Whether the parts of a file are no larger than it is, before memory is taken for them."""
    parts = zipfile.ZipFile(io.BytesIO(data)).infolist()
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise ValueError("it is compressed")
    if sum(part.file_size for part in parts) > len(data):
        raise ValueError("its parts are larger than the file")

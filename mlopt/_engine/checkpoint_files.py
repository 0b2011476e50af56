"""The files of checkpoints: written whole, checked when read, the newest good one first."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._errors import CapabilityWarning, SettingsError
from .._evaluation.sharded import Sharded
from .._files import Damaged, Lock, is_part, read_archive, said, write_archive
from .shard_files import (
    check_shards,
    drop_lone_shards,
    drop_shards,
    read_shards,
    write_shards,
)  # fmt: skip

__all__ = [
    "checkpoints", "keep_lock", "newest", "remove_old", "remove_others", "remove_rests",
    "write_checkpoint",
]  # fmt: skip

KIND, FORMAT = "checkpoint of an engine", 1

_NAME = re.compile(r"step_(\d{10,})\.ckpt")


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints in a folder by their steps, the newest first; none if it is not there.

    Args:
        folder: of a run.

    Returns:
        Pairs of a step and its file.

    Raises:
        SettingsError: it is a file, or cannot be read.
    """
    with said(folder, "read"):
        if folder.is_file():
            raise SettingsError(
                f"{folder}: is a file, and checkpoints stand in a folder. Give the folder that "
                f"holds them, such as {str(folder.parent)!r}."
            )
        try:
            names = [p for p in folder.iterdir() if p.is_file()]
        except FileNotFoundError:
            names = []
    found = ((_NAME.fullmatch(path.name), path) for path in names)
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def write_checkpoint(
    folder: Path, step: int, content: Mapping[str, Any], sharded: Sharded | None = None
) -> Path:
    """Write a checkpoint, the whole file or nothing of it; what is sharded, all ranks at once.

    Args:
        folder: made if it is not there.
        step: after which it is taken.
        content: tensors and plain values.
        sharded: variables of the engine, if some are.

    Returns:
        The file, which the first rank has written.

    Raises:
        SettingsError: it cannot be written; the earlier ones are as they were.
    """
    path = folder / f"step_{step:010d}.ckpt"
    if sharded is None:
        write_archive(path, KIND, FORMAT, content)
        return path
    content = write_shards(path, dict(content), sharded)
    if sharded.ranks.rank == 0:
        write_archive(path, KIND, FORMAT, content)
        drop_shards(path, but=content["shards"]["folder"])
    sharded.ranks.collect(None)  # the file is there for all
    return path


def remove_old(folder: Path, step: int, keep: int) -> None:
    """Leave the newest ones alone in a folder, of a run that has just saved one.

    Args:
        folder: of the run.
        step: after which it stands. What has a later number is damaged, or was taken back: the run
            has gone on from before it.
        keep: how many stay.
    """
    found = checkpoints(folder)
    standing = [path for at, path in found if at <= step][:keep]
    for path in (path for _, path in found if path not in standing):
        with said(path, "removed"):
            path.unlink(missing_ok=True)
            drop_shards(path)


def remove_others(kept: Path) -> None:
    """Leave one checkpoint alone in its folder."""
    for _, path in checkpoints(kept.parent):
        if path != kept:
            with said(path, "removed"):
                path.unlink(missing_ok=True)
                drop_shards(path)


def remove_rests(folder: Path) -> None:
    """Remove what killed writers have left in a folder, whose lock is held."""
    with said(folder, "read"):
        for part in filter(is_part, folder.iterdir()):
            part.unlink(missing_ok=True)
        drop_lone_shards(folder)


def keep_lock(lock: Lock, folder: Path, by: str) -> None:
    """Take a folder again that was removed, or what is hidden in it: the run is not lost for that.

    Args:
        lock: of the folder, which is held.
        folder: of a run.
        by: who saves there.

    Raises:
        SettingsError: somebody else has taken it meanwhile.
    """
    if lock.lost:
        warnings.warn(
            f"{by}: {folder} was removed, or its lock, while a run saves there. It is made again; "
            "what was saved before may be gone.",
            CapabilityWarning,
            stacklevel=3,
        )
        lock.release()
        lock.acquire()


def newest(folder: Path, sharded: Sharded | None = None) -> tuple[Path, dict[str, Any]] | None:
    """Read the newest checkpoint of a folder; where that is damaged, the one before.

    Args:
        folder: of a run.
        sharded: variables of the engine that goes on, if some are.

    Returns:
        The file, and its content on the CPU; None if there is none.

    Raises:
        SettingsError: none of them can be read, or the newest is of another version of mlopt; or
            ranks, which read shards together, do not see the same ones.
    """
    damaged: list[str] = []
    found = checkpoints(folder)
    if sharded is not None:
        _check_seen(folder, sharded.ranks.collect([path.name for _, path in found]))
    for _, path in found:
        try:
            content = _read(path, sharded)
        except Damaged as error:
            damaged.append(str(error))
            continue
        if content is None:  # somebody has removed it meanwhile
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


def _check_seen(folder: Path, each: Sequence[Sequence[str]]) -> None:
    """All ranks are to see the same checkpoints in a folder."""
    for rank, names in enumerate(each):
        if names != each[0]:
            first, other = (", ".join(seen) or "none" for seen in (each[0], names))
            raise SettingsError(
                f"{folder}: rank 0 sees other checkpoints in it ({first}) than rank {rank} "
                f"({other}). Give a folder that all ranks can read."
            )


def _read(path: Path, sharded: Sharded | None) -> dict[str, Any] | None:
    """Read a checkpoint; where variables are sharded, what one rank cannot read none does.

    Args:
        path: its file.
        sharded: variables of the engine that goes on, if some are.

    Returns:
        Its content; None if it is gone.

    Raises:
        Damaged: it is not as it was written.
    """
    content, damage = None, ""
    ranks = None if sharded is None else sharded.ranks
    try:
        content = read_archive(path, KIND, FORMAT)
        check_shards(path, content or {}, ranks)
    except Damaged as error:
        damage = str(error)
    gone = content is None
    if ranks is not None:
        each = ranks.collect((gone, damage))
        gone = any(gone for gone, _ in each)
        damage = next((damage for _, damage in each if damage), "")
    if damage:
        raise Damaged(damage)
    return None if gone or content is None else read_shards(path, content, sharded)

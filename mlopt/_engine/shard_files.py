"""The shards of a checkpoint: a folder of `torch.distributed.checkpoint`, beside its file.

Every rank writes its own rows, into a folder that takes its name when all have; then the file is
written that names them, with all else. They are read with any number of ranks: each gets the rows
that it is to have, and a process by itself whole tensors.
"""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .._errors import SettingsError, exhausted
from .._evaluation.sharded import Sharded
from .._files import Damaged

__all__ = ["drop_shards", "folder_of", "read_shards", "shards_in", "write_shards"]

_MARK = "mlopt.shard"


def folder_of(path: Path) -> Path:
    """Where the shards of a checkpoint are."""
    return path.with_suffix(".shards")


def write_shards(path: Path, content: dict[str, Any], sharded: Sharded) -> dict[str, Any]:
    """Write the DTensors of a checkpoint, which all ranks do at once.

    Args:
        path: of its file, that is written after that.
        content: of the checkpoint.
        sharded: variables of the engine.

    Returns:
        The content with words for DTensors.

    Raises:
        SettingsError: they cannot be written, on any rank.
    """
    import torch.distributed.checkpoint as files

    ranks, found = sharded.ranks, {}

    def word(key: str, held: Any) -> Any:
        if not hasattr(held, "full_tensor"):
            return held
        found[key] = held
        return {_MARK: key, "shape": [*held.shape], "dtype": str(held.dtype)}

    words = _changed(content, word)
    folder = folder_of(path)
    half = folder.with_name(f".{folder.name}.part")
    error = ""
    try:
        if ranks.rank == 0:
            for old in (half, folder):
                shutil.rmtree(old, ignore_errors=True)
            path.parent.mkdir(parents=True, exist_ok=True)
        ranks.collect(None)  # nobody writes before
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            files.save(found, checkpoint_id=half, process_group=ranks.control)
        if ranks.rank == 0:
            half.rename(folder)
    except Exception as failed:
        if exhausted(failed):
            raise
        error = f"{type(failed).__name__}: {str(failed).splitlines()[0] if str(failed) else ''}"
    told = [e for e in ranks.collect(error) if e]
    if told:
        raise SettingsError(
            f"{folder}: the shards of a checkpoint cannot be written ({told[0]}). Earlier ones are "
            "as they were. Give a folder that all ranks can write to."
        )
    return {**words, "shards": _sums(folder)}


def shards_in(content: dict[str, Any]) -> bool:
    """Whether a checkpoint has shards beside it."""
    return "shards" in content


def read_shards(path: Path, content: dict[str, Any], sharded: Sharded | None) -> dict[str, Any]:
    """The content of a checkpoint with tensors for the words of `write_shards`.

    Args:
        path: of its file.
        content: of that.
        sharded: variables of the engine that goes on, all ranks of which ask at once; None where
            it has none, and takes whole tensors.

    Returns:
        The content.

    Raises:
        Damaged: shards are missing, or are others than were written.
    """
    if not shards_in(content):
        return content
    folder = folder_of(path)
    if _sums(folder) != content["shards"]:
        raise Damaged(f"{folder}: is not as it was written.")
    import torch.distributed.checkpoint as files

    found: dict[str, Any] = {}

    def tensor(key: str, held: Any) -> Any:
        if not (isinstance(held, dict) and _MARK in held):
            return held
        dtype = getattr(torch, held["dtype"].removeprefix("torch."))
        made = torch.empty if sharded is None else sharded.empty
        found[held[_MARK]] = made(held["shape"], dtype=dtype)
        return found[held[_MARK]]

    rest = _changed({k: v for k, v in content.items() if k != "shards"}, tensor)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if sharded is None:
                files.load(found, checkpoint_id=folder, no_dist=True)
            else:
                files.load(found, checkpoint_id=folder, process_group=sharded.ranks.control)
    except Exception as error:
        if exhausted(error):
            raise
        raise Damaged(f"{folder}: cannot be read ({type(error).__name__}).") from error
    return rest


def drop_shards(path: Path) -> None:
    """Remove the shards of a checkpoint, whose file is gone."""
    shutil.rmtree(folder_of(path), ignore_errors=True)


def _sums(folder: Path) -> dict[str, str]:
    """The sizes of the files in a folder, and a checksum of what says where everything is."""
    try:
        found = {p.name: str(p.stat().st_size) for p in sorted(folder.iterdir())}
        data = (folder / ".metadata").read_bytes()
    except OSError:
        return {}
    return {**found, "sha256": hashlib.sha256(data).hexdigest()}


def _changed(held: Any, change: Callable[[str, Any], Any], at: str = "") -> Any:
    """The same containers with other things in them; each is told its place."""
    new = change(at, held)
    if new is not held:
        return new
    if isinstance(held, dict):
        return {k: _changed(v, change, f"{at}/{k}" if at else str(k)) for k, v in held.items()}
    if isinstance(held, list | tuple):
        return type(held)(_changed(v, change, f"{at}/{i}") for i, v in enumerate(held))
    return held

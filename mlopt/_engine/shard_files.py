"""The shards of a checkpoint: a folder of `torch.distributed.checkpoint`, beside its file.

Every rank writes its own rows, into a folder that takes its name when all have; then the file is
written that names them, with all else. A step that is saved once more gets another folder, and the
first one goes when the file names the other: whenever a run is killed, the file that stands has its
shards. They are read with any number of ranks: each gets the rows that it is to have, and a process
by itself whole tensors.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from .._errors import SettingsError, exhausted
from .._evaluation.sharded import Sharded
from .._files import Damaged
from ..distributed.ranks import Ranks

__all__ = ["check_shards", "drop_lone_shards", "drop_shards", "read_shards", "write_shards"]

_MARK = "mlopt.shard"
_FOLDER = re.compile(r"(step_\d{10,})(\.\d+)?\.shards")
_OF_RANK = re.compile(r"__(\d+)_")
_T = TypeVar("_T")


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
    first = ranks.rank == 0
    name = _by_all(ranks, path, lambda: _begun(path) if first else "")[0]
    folder, half = path.with_name(name), path.with_name(f".{name}.part")

    def write() -> dict[str, str]:
        with _plainly():
            files.save(found, checkpoint_id=half, process_group=ranks.control)
        return {p.name: _sum(p) for p in half.iterdir() if _writer(p) == ranks.rank}

    sums = {k: v for own in _by_all(ranks, path, write) for k, v in own.items()}
    _by_all(ranks, path, lambda: half.rename(folder) if first else None)
    return {**words, "shards": {"folder": name, "sums": sums}}


@contextmanager
def _plainly() -> Iterator[None]:
    """A block of torch.distributed.checkpoint: no warnings, and what has failed on a rank as it is.

    It raises that on all ranks within another error, which is no Exception.
    """
    import torch.distributed.checkpoint as files

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except files.CheckpointException as error:
        failures = [failed for failed, _ in error.failures.values()]
        raise (failures or [error])[0] from None


def _by_all(ranks: Ranks, path: Path, work: Callable[[], _T]) -> list[_T]:
    """Do something on all ranks, none of which goes on where one has failed.

    Args:
        ranks: that call this at once.
        path: of the checkpoint.
        work: does it.

    Returns:
        What each rank has got.

    Raises:
        SettingsError: a rank has failed.
    """
    got: Any = None
    error = ""
    try:
        got = work()
    except Exception as failed:
        if exhausted(failed):
            raise
        error = f"{type(failed).__name__}: {str(failed).splitlines()[0] if str(failed) else ''}"
    each = ranks.collect((got, error))
    if told := next((error for _, error in each if error), ""):
        raise SettingsError(
            f"{path}: the shards of a checkpoint cannot be written ({told}). Earlier ones are as "
            "they were. Give a folder that all ranks can write to."
        )
    return [got for got, _ in each]


def _begun(path: Path) -> str:
    """The name of a folder that is not there yet, for shards of a checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    taken = {p.name for p in _folders(path)}
    names = (f"{path.stem}{end}.shards" for end in ("", *(f".{n + 2}" for n in range(len(taken)))))
    name = next(name for name in names if name not in taken)
    shutil.rmtree(path.with_name(f".{name}.part"), ignore_errors=True)
    return name


def check_shards(path: Path, content: dict[str, Any], ranks: Ranks | None = None) -> None:
    """Look whether the shards of a checkpoint are as they were written, if it has some.

    Args:
        path: of its file.
        content: of that.
        ranks: of which each looks at some files; None where this process looks at all.

    Raises:
        Damaged: one is missing, or is another.
    """
    if "shards" not in content:
        return
    folder, sums = path.with_name(content["shards"]["folder"]), content["shards"]["sums"]
    rank, size = (0, 1) if ranks is None else (ranks.rank, ranks.size)
    for name in sorted(sums)[rank::size]:
        try:
            same = _sum(folder / name) == sums[name]
        except OSError:
            same = False
        if not same:
            raise Damaged(f"{folder}: is not as it was written.")


def read_shards(path: Path, content: dict[str, Any], sharded: Sharded | None) -> dict[str, Any]:
    """The content of a checkpoint with tensors for the words of `write_shards`.

    Args:
        path: of its file.
        content: of that, whose shards have been looked at.
        sharded: variables of the engine that goes on, all ranks of which ask at once; None where
            it has none, and takes whole tensors.

    Returns:
        The content.

    Raises:
        Damaged: they cannot be read, on any rank.
    """
    if "shards" not in content:
        return content
    folder = path.with_name(content["shards"]["folder"])
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
        with _plainly():
            if sharded is None:
                _load_alone(found, folder)
            else:
                files.load(found, checkpoint_id=folder, process_group=sharded.ranks.control)
    except Exception as error:
        if exhausted(error):
            raise
        raise Damaged(f"{folder}: cannot be read ({type(error).__name__}).") from error
    return rest


def _load_alone(found: dict[str, Any], folder: Path) -> None:
    """Read whole tensors, without a group."""
    import torch.distributed.checkpoint as files

    if "no_dist" in inspect.signature(files.load).parameters:
        files.load(found, checkpoint_id=folder, no_dist=True)
    else:  # as of torch 2.6
        files.load_state_dict(found, files.FileSystemReader(folder), no_dist=True)


def drop_shards(path: Path, but: str = "") -> None:
    """Remove the shards of a checkpoint whose file is gone, or names others.

    Args:
        path: of its file.
        but: the name of the folder that it names.
    """
    for folder in _folders(path):
        if folder.name != but:
            shutil.rmtree(folder, ignore_errors=True)


def drop_lone_shards(folder: Path) -> None:
    """Remove what killed writers have left of shards in a folder, whose lock is held."""
    for half in folder.glob(".step_*.shards.part"):
        shutil.rmtree(half, ignore_errors=True)
    for shards in folder.glob("step_*.shards"):
        match = _FOLDER.fullmatch(shards.name)
        if match and not (folder / f"{match[1]}.ckpt").exists():
            shutil.rmtree(shards, ignore_errors=True)


def _folders(path: Path) -> list[Path]:
    """The folders with shards of a checkpoint: one, or more while it is written once more."""
    found = ((_FOLDER.fullmatch(p.name), p) for p in path.parent.glob(f"{path.stem}*.shards"))
    return [p for match, p in found if match and match[1] == path.stem]


def _writer(file: Path) -> int:
    """The rank that has written a file of shards, by its name; the first what is for all."""
    match = _OF_RANK.match(file.name)
    return int(match[1]) if match else 0


def _sum(file: Path) -> str:
    """The checksum of a file."""
    found = hashlib.blake2b(digest_size=32)
    with file.open("rb") as data:
        while piece := data.read(2**24):
            found.update(piece)
    return found.hexdigest()


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

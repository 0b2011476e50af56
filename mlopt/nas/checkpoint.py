"""The file from which an interrupted training goes on."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from mlopt._errors import CapabilityWarning, SettingsError
from mlopt._files import Damaged, Lock, read_archive, remove_parts, write_archive

__all__ = [
    "file_of",
    "generator_states",
    "only_writer",
    "read_checkpoint",
    "restore_generators",
    "write_checkpoint",
]

KIND, FORMAT = "checkpoint of a training", 3
ADVICE = "Give another file, or remove this one to start anew."


def file_of(path: str | Path) -> Path:
    """The file of a checkpoint: of a link what it leads to, be it there or not."""
    # `write_file` replaces a link: the checkpoint would lie where the link does, which may have
    # been made to spare that disk, and a training by the file's own name would not see this one.
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


@contextlib.contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Be the one that writes a checkpoint, for the time of a training.

    Args:
        path: the checkpoint.

    Raises:
        SettingsError: another training, of this process or another, is at it.
    """
    with Lock(path.with_name(f".{path.name}.lock"), path):
        remove_parts(path)
        yield


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values, the whole file or nothing of it; the one before stays, too.

    Raises:
        SettingsError: the file cannot be written; an earlier one is as it was.
    """
    write_archive(path, KIND, FORMAT, content, before=_before(path))


def read_checkpoint(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read what `write_checkpoint` wrote, on the CPU; of a damaged file the one before.

    Args:
        path: the file.
        settings: what the training that wants to go on is of; the file's `settings` must be equal.
            The names of what is no argument begin with "network: " or "data: ".

    Returns:
        What was written; None if there is no file.

    Raises:
        SettingsError: the file cannot be read, is damaged or no checkpoint, or is that of another
            training.
    """
    try:
        content = _newest(path)
    except SettingsError as error:
        advice = f" {ADVICE}" if isinstance(error, Damaged) else ""
        raise SettingsError(f"retrain: checkpoint={error}{advice}") from error
    if content is None:
        return None
    found = content["settings"]
    for name in (*settings, *(name for name in found if name not in settings)):
        here, there = settings.get(name), found.get(name)
        if here != there:
            raise SettingsError(
                f"{path}: is the checkpoint of {_other(name, there, here)} {ADVICE}"
            )
    return content


def _newest(path: Path) -> dict[str, Any] | None:
    try:
        return read_archive(path, KIND, FORMAT)
    except Damaged as error:
        try:
            content = read_archive(_before(path), KIND, FORMAT)
        except SettingsError:
            content = None
        if content is None:
            raise
        epochs = len(content["history"])
        warnings.warn(
            f"retrain: checkpoint={error} The training goes on from the one before, of {epochs} "
            f"epoch{'s' * (epochs != 1)}.",
            CapabilityWarning,
            stacklevel=2,
        )
        return content


def _before(path: Path) -> Path:
    """Where the checkpoint of the epoch before is, beside the last one."""
    return path.with_name(f".{path.name}.before")


def _other(name: str, there: Any, here: Any) -> str:
    kind, colon, part = name.partition(": ")
    if not colon:
        return f"a training with {name}={there!r}, not {here!r}."
    other = {"network": "another network", "data": "other data"}.get(kind, kind)
    return f"{other}: {part} is {there or 'not there'} in it, not {here or 'there at all'}."


def generator_states(loader: DataLoader[Any], device: torch.device) -> dict[str, torch.Tensor]:
    """States of the generators that a training draws from: the global ones and the loader's."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states | {name: g.get_state() for name, g in _generators_of(loader).items()}


def restore_generators(
    states: Mapping[str, torch.Tensor], loader: DataLoader[Any], device: torch.device
) -> None:
    """Set them again; those that are not here any more are left out."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    for name, generator in _generators_of(loader).items():
        if name in states:
            generator.set_state(states[name])


def _generators_of(loader: DataLoader[Any]) -> dict[str, torch.Generator]:
    """A loader's own generators, if it has any; a list of batches has none."""
    holders = {"loader": loader, "sampler": getattr(loader, "sampler", None)}
    found = {name: getattr(holder, "generator", None) for name, holder in holders.items()}
    return {name: generator for name, generator in found.items() if generator is not None}

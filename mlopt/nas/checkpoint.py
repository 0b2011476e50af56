"""The file from which an interrupted training goes on."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from mlopt._errors import SettingsError

__all__ = ["generator_states", "read_checkpoint", "restore_generators", "write_checkpoint"]


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values, the whole file or nothing of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.part")
    torch.save(dict(content), half)
    os.replace(half, path)


def read_checkpoint(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read what `write_checkpoint` wrote, on the CPU.

    Args:
        path: the file.
        settings: those of the training that wants to go on; the file's `settings` must be equal.

    Returns:
        What was written.

    Raises:
        SettingsError: the file is no checkpoint, or that of another training.
    """
    advice = "Give another file, or remove this one to start anew."
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = content["settings"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise SettingsError(f"{path}: is not the checkpoint of a training. {advice}") from error
    for name in (*settings, *(name for name in found if name not in settings)):
        here, there = settings.get(name), found.get(name)
        if here != there:
            raise SettingsError(
                f"{path}: is the checkpoint of a training with {name}={there!r}, not {here!r}. "
                f"{advice}"
            )
    return content


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

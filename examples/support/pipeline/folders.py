"""The folder of a run: a new one, or that of a run which was interrupted and goes on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import mlopt
from mlopt.report import RunFolder

from ..ranks import Onlooker, first

#: Settings that say where and how a run is made: it may go on with others.
_MAY_DIFFER = {
    "device", "threads", "workers", "data_root", "unlabeled_root", "run_folder", "overwrite",
    "checkpoint_every", "loggers", "resume", "ranks",
    "parts",  # what they may be depends on how many ranks there are: the engine sees to that
}  # fmt: skip


def open_run(
    path: Path,
    settings: Mapping[str, object],
    *,
    resume: bool,
    overwrite: bool,
    refresh: Callable[[RunFolder], object] | None = None,
) -> RunFolder:
    """The folder of a run, ready to be logged to; to other ranks than the first, an onlooker.

    Args:
        path: the folder.
        settings: of the run, by name.
        resume: whether to go on with a run that is there; where none has begun, it begins.
        overwrite: whether to remove one that is there, without `resume`.
        refresh: as of `RunFolder.create`.

    Raises:
        SettingsError: a run is there and neither is wanted, it is of other settings, or the folder
            is no run's.
    """
    return first(
        lambda: _opened(path, settings, resume, overwrite, refresh), others=lambda: Onlooker(path)
    )


def _opened(
    path: Path,
    settings: Mapping[str, object],
    resume: bool,
    overwrite: bool,
    refresh: Callable[[RunFolder], object] | None,
) -> RunFolder:
    begun = os.path.isfile(path / "settings.json")
    if not resume:
        if begun and not overwrite:
            raise mlopt.SettingsError(
                f"run folder {path}: already exists. Give --resume to go on with the run in it, "
                "--overwrite to remove that, or another --run-folder."
            )
        return RunFolder.create(path, settings, overwrite=overwrite, refresh=refresh)
    if not begun:  # what a kill has left of the beginning, or of overwriting, is no run
        folder = RunFolder.create(path, settings, overwrite=True, refresh=refresh)
        print(f"There was no run in {path} to go on with: it begins now.")
        return folder
    folder = RunFolder.open(path, refresh=refresh)
    there, here = folder.read_json("settings.json"), json.loads(json.dumps(settings))
    there = there if isinstance(there, dict) else {}
    # A setting that came later has a default with which runs are what they were.
    for key in (key for key in here if key in there or key == "example"):
        if key not in _MAY_DIFFER and here[key] != there.get(key):
            raise mlopt.SettingsError(
                f"--resume: the run in {path} has {key} = {there.get(key)!r}, not "
                f"{here[key]!r}. Give its settings, or another --run-folder."
            )
    folder.go_on()
    return folder


def remove_checkpoints(folder: RunFolder) -> None:
    """Remove what the search of a run has saved to be resumed, when the run is over."""
    for inner in folder.root.glob("checkpoints*"):
        for path in inner.glob("step_*.ckpt"):
            path.unlink()
        with contextlib.suppress(OSError):  # somebody has put a file there
            inner.rmdir()

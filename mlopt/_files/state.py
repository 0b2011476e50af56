"""The state of a run in its folder: running, interrupted or finished."""

from __future__ import annotations

import json
from pathlib import Path

from .atomic import said, write_file
from .lock import is_taken

__all__ = ["FINISHED", "INTERRUPTED", "RUNNING", "read_state", "write_state"]

RUNNING, INTERRUPTED, FINISHED = "running", "interrupted", "finished"


def write_state(path: str | Path, state: str) -> None:
    """Say how a run is.

    Args:
        path: the file of its state.
        state: `RUNNING`, `INTERRUPTED` or `FINISHED`.

    Raises:
        SettingsError: the file cannot be written.
    """
    write_file(path, json.dumps({"state": state}) + "\n")


def read_state(path: str | Path, lock: str | Path) -> str:
    """How a run is: one that says it runs, and whose lock nobody holds, has been interrupted.

    Args:
        path: the file of its state.
        lock: that of the process that runs it, which ends with that.

    Returns:
        Its state; empty if it has said nothing.

    Raises:
        SettingsError: the file cannot be read.
    """
    running = is_taken(lock)  # asked first: a run that ends meanwhile has said so by then
    with said(path, "read"):
        try:
            text = Path(path).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
    try:
        state = json.loads(text)["state"]
    except (ValueError, TypeError, KeyError, RecursionError):  # somebody else has written it
        return ""
    if state == RUNNING and not running:
        return INTERRUPTED
    return state if state in (RUNNING, INTERRUPTED, FINISHED) else ""

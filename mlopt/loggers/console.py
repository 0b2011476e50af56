"""Rows of metrics as lines for people."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from mlopt._arguments import checked
from mlopt._errors import SettingsError
from mlopt.loggers.rows import POSITION, Status, entries
from mlopt.loggers.values import to_json

__all__ = ["Console"]

_MOST = 4  # numbers of a list that are shown


class Console:
    """Prints a line for each row, above a progress bar if there is one.

        step 50, epoch 2: fit/loss 0.1234, validation/loss 0.2345

    Of long lists it shows the first numbers, of lists of lists how many there are.

    Args:
        only: what is printed: metrics whose names contain one of these; by default all.

    Raises:
        SettingsError: `only` is no list of words.
    """

    @checked(SettingsError)
    def __init__(self, only: Sequence[str] = ()) -> None:
        self.only = tuple(only)

    @checked(SettingsError)
    def log(self, row: Mapping[str, object]) -> None:
        """Print one row.

        Args:
            row: names and values; a row of which nothing is to be printed makes no line.
        """
        found = {
            name: value
            for name, value in entries({k: v for k, v in row.items() if k != "phase"})
            if value is not None and (not self.only or any(part in name for part in self.only))
        }
        if not found:
            return
        where = ", ".join(
            str(row[name]) if name == "phase" else f"{name} {row[name]}"
            for name in POSITION
            if row.get(name) is not None
        )
        line = ", ".join(f"{name} {_short(value)}" for name, value in found.items())
        tqdm.write(f"{where}: {line}" if where else line)

    @checked(SettingsError)
    def close(self, status: Status = "finished") -> None:
        """Say how the run ended, unless it just finished.

        Args:
            status: how it ended.
        """
        if status != "finished":
            tqdm.write(f"The run {'has' if status == 'failed' else 'was'} {status}.")


def _short(value: Any) -> str:
    value = to_json(value)
    if isinstance(value, bool) or not isinstance(value, list | numbers.Real):
        return str(value)
    if isinstance(value, list):
        if any(isinstance(entry, list) for entry in value):
            return f"[{len(value)} lists]"
        more = f", ... ({len(value)})" if len(value) > _MOST else ""
        return f"[{', '.join(map(_short, value[:_MOST]))}{more}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

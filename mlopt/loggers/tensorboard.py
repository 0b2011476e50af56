"""Rows of metrics for TensorBoard."""

from __future__ import annotations

import math
import numbers
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlopt._arguments import checked
from mlopt._errors import SettingsError
from mlopt._files import said
from mlopt.loggers.pictures import as_picture
from mlopt.loggers.rows import Status, columns_of, entries, place
from mlopt.loggers.values import counts_in, from_json, to_json

__all__ = ["TensorBoard"]

_CURVES = 128  # a longer list is a histogram
# Readers heed a step to purge from in all files but the first that names one: so each names one.
_NEVER = 2**62


class TensorBoard:
    """Writes rows into a folder that `tensorboard --logdir` shows, by torch's `SummaryWriter`.

    Numbers are curves in double precision, lists of up to 128 numbers a curve for each ("name/0",
    "name/1", ...), longer ones histograms, words texts. A row stands at its step, or at its epoch
    if it has no step.

    Args:
        folder: made if it is not there; each logger adds a file to it.

    Raises:
        SettingsError: the package `tensorboard` is not installed, or the folder cannot be written.
    """

    @checked(SettingsError)
    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if "\0" in str(folder):
            raise SettingsError(f"TensorBoard(folder={str(folder)!r}): is no name of a folder.")
        self._last, self._files = -1, secrets.randbits(32)
        self.check()
        with said(self.folder, "written"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._writer = self._open(_NEVER)

    @staticmethod
    def check() -> Any:
        """See that the package is there, before anything is written.

        Returns:
            Torch's writer.

        Raises:
            SettingsError: `tensorboard` is not installed.
        """
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise SettingsError(
                "TensorBoard: the package tensorboard is missing; install it with: "
                "pip install tensorboard."
            ) from error
        return SummaryWriter

    @checked(SettingsError)
    def log(self, row: Mapping[str, object]) -> None:
        """Write one row, and have it in the file.

        Args:
            row: names and values, as of `JsonlLogger.log`; None is nothing to show.

        Raises:
            DataError: a value is none that can be written.
        """
        at = self._at(row)
        for name, value in entries(row):
            self._add(name, from_json(to_json(value)), at)
        self._writer.flush()

    def state_dict(self) -> dict[str, int]:
        """The last step of a row, and a number in the names of files: a checkpoint holds them."""
        return {"step": self._last, "file": self._files}

    @checked(SettingsError)
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have TensorBoard leave out later steps, which the run that is resumed logs again.

        Args:
            state: of `state_dict`. A folder without a file of that logger stays as it is.

        Raises:
            SettingsError: it is no such state, or the folder cannot be written.
        """
        where = "TensorBoard.load_state_dict(state=...)"
        last, number = counts_in(state, where, "step", "file")
        with said(self.folder, "written"):
            if not any(self.folder.glob(f"*{_suffix(number)}")):
                return
            self._writer.close()
            self._last, self._files = last, number
            self._writer = self._open(last + 1)
            self._writer.flush()

    def _open(self, purge_step: int) -> Any:
        suffix = _suffix(self._files)
        return self.check()(str(self.folder), purge_step=purge_step, filename_suffix=suffix)

    def _at(self, row: Mapping[str, Any]) -> int:
        """The step of a row."""
        by = place(row)
        step = 0 if by is None else int(row[by])
        self._last = max(self._last, step)
        return step

    def _add(self, name: str, value: Any, step: int) -> None:
        if isinstance(value, numbers.Real):
            self._number(name, float(value), step)
        elif isinstance(value, list) and all(isinstance(v, numbers.Real) for v in value):
            if len(value) <= _CURVES:
                for i, number in enumerate(value):
                    self._number(f"{name}/{i}", float(number), step)
            elif finite := [v for v in value if math.isfinite(v)]:
                self._writer.add_histogram(name, np.asarray(finite, dtype=np.float64), step)
        elif isinstance(value, list):
            self._writer.add_text(name, "\n".join(f"- {part}" for part in value), step)
        elif value is not None:
            self._writer.add_text(name, str(value), step)

    def _number(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step, new_style=True, double_precision=True)

    @checked(SettingsError)
    def log_image(self, row: Mapping[str, object], name: str, image: Any) -> None:
        """Show numbers as a picture.

        Args:
            row: whose step, or epoch, it belongs to.
            name: of it.
            image: (height, width), or (channels, height, width); see `as_picture`.

        Raises:
            DataError: it has another shape.
        """
        ((full, _),) = entries({"phase": row.get("phase"), name: 0})
        picture = as_picture(image)
        form = "HWC" if picture.ndim == 3 else "HW"
        self._writer.add_image(full, picture, self._at(row), dataformats=form)
        self._writer.flush()

    @checked(SettingsError)
    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show a table, as text.

        Args:
            name: of it.
            rows: dicts of columns; one that a row has not is empty there.

        Raises:
            DataError: a value is none that can be written.
        """
        columns, cells = columns_of(to_json(rows))
        lines = [columns, ["---"] * len(columns), *cells]
        shown = (" | ".join("" if cell is None else str(cell) for cell in line) for line in lines)
        self._writer.add_text(name, "\n".join(f"| {line} |" for line in shown))
        self._writer.flush()

    @checked(SettingsError)
    def close(self, status: Status = "finished") -> None:
        """Close the file; closing twice is fine.

        Args:
            status: how the run ended.
        """
        del status
        self._writer.close()


def _suffix(number: int) -> str:
    """What the names of a logger's files end with."""
    return f".{number:08x}"

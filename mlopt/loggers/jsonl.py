"""Metrics as lines of JSON: one row a line, readable during the run, whole if it is killed."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlopt._arguments import checked, from_zero
from mlopt._errors import DataError, SettingsError
from mlopt._files import Lock, said
from mlopt.loggers.rows import Status

__all__ = ["JsonlLogger", "from_json", "read_jsonl", "to_json"]

MAX_ELEMENTS = 4096  # of one tensor: a metric is a number or a few, not a weight matrix
_MOST_BITS = 10_000  # of a whole number; Python reads no text of more than 4300 digits
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class JsonlLogger:
    """Appends rows of metrics to a file, one JSON object a line.

    Each row is written through to the operating system before `log` returns: a run that is killed
    loses nothing it has logged, and a row that cannot be written leaves nothing of it. A line that
    an earlier run left half-written is removed first. One logger at a time has a file: in a
    distributed run, log on rank 0.

    Args:
        path: the file; missing folders are made.

    Raises:
        SettingsError: the path is none, the file cannot be written, or another logger is writing to
            it.
    """

    @checked(SettingsError)
    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.name or "\0" in str(path):
            raise SettingsError(f"JsonlLogger(path={str(path)!r}): names no file. Give one.")
        with contextlib.ExitStack() as locks:
            for lock in _locks(self.path):
                locks.enter_context(lock)
            with said(self.path, "written"):
                _remove_cut_line(self.path)
                self._file = self.path.open("ab", buffering=0)
            self._locks = locks.pop_all()

    @checked(DataError)
    def log(self, row: Mapping[str, object]) -> None:
        """Append one row.

        Args:
            row: names and values; see `to_json` for the values that can be written.

        Raises:
            DataError: a value cannot be written; nothing of the row is.
            SettingsError: the logger is closed, the file has been removed, or the disk is full;
                nothing of the row is written.
        """
        try:
            plain = to_json(row)
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from None
        line = (json.dumps(plain, allow_nan=False) + "\n").encode()
        self._check_open()
        with said(self.path, "written"):
            state = os.fstat(self._file.fileno())
            if state.st_nlink == 0:
                raise SettingsError(
                    f"{self.path}: was removed while this run logs to it. Start the run again, and "
                    f"leave its folder until it has ended."
                )
            try:
                written = self._file.write(line)
                if written != len(line):
                    self._file.write(line[written:])  # says why there is no more
            except BaseException:
                with contextlib.suppress(OSError):
                    os.truncate(self._file.fileno(), state.st_size)
                raise

    @checked(SettingsError, size=from_zero)
    def cut(self, size: int) -> None:
        """Remove the rows behind a place in the file; a file that ends before it stays as it is.

        Args:
            size: of the file up to there, in bytes.

        Raises:
            SettingsError: the logger is closed, or the file cannot be written.
        """
        self._check_open()
        with said(self.path, "written"):
            if os.fstat(self._file.fileno()).st_size > size:
                os.truncate(self._file.fileno(), size)
                _remove_cut_line(self.path)

    def _check_open(self) -> None:
        if self._file.closed:
            raise SettingsError(f"{self.path}: this logger is closed. Make another one.")

    @checked(SettingsError)
    def close(self, status: Status = "finished") -> None:
        """Close the file; closing twice is fine.

        Args:
            status: how the run ended, which a line of the file does not say.
        """
        del status
        self._file.close()
        self._locks.close()

    def __enter__(self) -> JsonlLogger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def to_json(value: object) -> Any:
    """Turn a metric, or a whole row, into what JSON can hold.

    Tensors and arrays become numbers or lists; numbers that are not finite become the strings
    "NaN", "Infinity" and "-Infinity", because JSON has no number for them; paths become strings.

    Args:
        value: a scalar, string, None, path, tensor, array, or a mapping, list, tuple or set of
            these.

    Returns:
        The same, made of dict, list, str, int, float, bool and None.

    Raises:
        DataError: a value is of another type or nested too deeply, a tensor has more than 4096
            elements or is a meta, nested or quantized one, or two keys of a mapping are the same as
            text.
    """
    try:
        return _plain(value)
    except RecursionError:
        raise DataError("a value is nested too deeply, or contains itself") from None


def _plain(value: object) -> Any:
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        if value.bit_length() > _MOST_BITS:
            raise DataError("a whole number of thousands of digits cannot be read back")
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _name_of(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        plain = {str(key): _plain_at(key, item) for key, item in value.items()}
        if len(plain) < len(value):
            raise DataError(f"two of the names {[str(key) for key in value]} are the same as text")
        return plain
    if isinstance(value, (set, frozenset)):
        return [_plain(item) for item in sorted(value, key=str)]
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        if value.is_meta or value.is_nested or value.is_quantized:
            how = "meta" if value.is_meta else "nested" if value.is_nested else "quantized"
            raise DataError(f"a {how} tensor cannot be written as JSON. Give numbers made of it")
        _check_size(value.numel(), tuple(value.shape))
        return _plain(value.detach().to_dense().cpu().tolist())
    if isinstance(value, (np.ndarray, np.generic)):
        _check_size(value.size, value.shape)
        return _plain(value.tolist())
    raise DataError(
        f"a value of type {type(value).__name__} cannot be written as JSON. Give a number, string, "
        f"small tensor, or a list or mapping of these"
    )


def from_json(value: Any) -> Any:
    """Turn the strings "NaN", "Infinity" and "-Infinity" back into the floats that `to_json` had.

    Args:
        value: what was read from JSON.

    Returns:
        The same, with those strings replaced at any depth.
    """
    if isinstance(value, str):
        return _SPECIAL.get(value, value)
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if isinstance(value, dict):
        return {key: from_json(item) for key, item in value.items()}
    return value


@checked(DataError)
def read_jsonl(path: str | Path, left_out: list[str] | None = None) -> list[dict[str, Any]]:
    """Read the rows that `JsonlLogger` wrote, also while it is writing.

    The strings "NaN", "Infinity" and "-Infinity" become floats again. A last line that was cut off
    (the run was killed, or is writing it) is left out.

    Args:
        path: the file.
        left_out: gets a sentence for each line that is left out since it is no JSON object, where
            there would be an error without it.

    Returns:
        The rows, in the order they were written.

    Raises:
        DataError: the file does not exist, or a line other than the last is not a JSON object.
        SettingsError: the file cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist or is no file: give the metrics file of a run")
    with said(path, "read"):
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    last = max((number for number, line in enumerate(lines, 1) if line.strip()), default=0)
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = _parse(line)
        if row is not None:
            rows.append(row)
        elif number != last:
            what = f"line {number}: not a JSON object ({line[:40]!r}...)"
            if left_out is None:
                raise DataError(
                    f"{path}, {what}. The file was changed by something else than JsonlLogger: "
                    f"remove the line"
                )
            left_out.append(f"{path.name}, {what}.")
    return rows


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = from_json(json.loads(line))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _name_of(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _plain_at(key: object, value: object) -> Any:
    try:
        return _plain(value)
    except DataError as error:
        raise DataError(f"{key}: {error}") from None


def _check_size(elements: int, shape: tuple[int, ...]) -> None:
    if elements > MAX_ELEMENTS:
        raise DataError(
            f"a tensor of shape {shape} is too large for a row of metrics (more than "
            f"{MAX_ELEMENTS} elements). Log its norm or mean, or save it to its own file"
        )


def _locks(path: Path) -> list[Lock]:
    """What the one has that writes to a file, by whatever name."""
    # Beside the file that links lead to a lock holds when the file is replaced or removed
    # meanwhile; one of the file itself holds for its hard links, too.
    real = Path(os.path.realpath(path))
    beside = Lock(real.with_name(f".{real.name}.lock"), path)
    return [beside] if sys.platform == "win32" else [beside, Lock(real, path, content=True)]


def _remove_cut_line(path: Path) -> None:
    """A run that was killed while writing leaves a line without an end: keep it if it is whole.

    Raises:
        SettingsError: the file is not one of rows, and stays as it is.
    """
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("r+b") as file:
        content = file.read()
        lines = content.split(b"\n")
        first, last = lines[0], lines[-1]
        ours = _parse(first.decode("utf-8", errors="replace")) is not None
        if not ours and not (first is last and first.startswith(b'{"')):
            raise SettingsError(
                f"{path}: does not begin with a row of metrics, so it is not the file of a logger "
                f"and stays as it is. Give another name"
            )
        if not last:
            return
        if _parse(last.decode("utf-8", errors="replace")) is None:
            file.truncate(len(content) - len(last))
        else:
            file.write(b"\n")

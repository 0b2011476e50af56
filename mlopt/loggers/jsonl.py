"""Metrics as lines of JSON: one row a line, readable during the run, whole if it is killed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlopt._arguments import checked
from mlopt._errors import DataError, SettingsError

__all__ = ["JsonlLogger", "from_json", "read_jsonl", "to_json"]

MAX_ELEMENTS = 4096  # of one tensor: a metric is a number or a few, not a weight matrix
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class JsonlLogger:
    """Appends rows of metrics to a file, one JSON object a line.

    Each row is written through to the operating system before `log` returns: a run that is killed
    loses nothing it has logged. A line that an earlier run left half-written is removed first. Only
    one process may write to a file: in a distributed run, log on rank 0.

    Args:
        path: the file; missing folders are made.

    Raises:
        SettingsError: the path is none.
    """

    @checked(SettingsError)
    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _remove_cut_line(self.path)
        self._file = self.path.open("a", buffering=1, encoding="utf-8", newline="\n")

    @checked(DataError)
    def log(self, row: Mapping[str, object]) -> None:
        """Append one row.

        Args:
            row: names and values; see `to_json` for the values that can be written.

        Raises:
            DataError: a value cannot be written; nothing of the row is.
        """
        try:
            plain = to_json(row)
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from None
        self._file.write(json.dumps(plain, allow_nan=False) + "\n")

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._file.close()

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
        DataError: a value is of another type, or a tensor has more than 4096 elements.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _name_of(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _to_json_at(key, item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return [to_json(item) for item in sorted(value, key=str)]
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, torch.Tensor):
        _check_size(value.numel(), tuple(value.shape))
        return to_json(value.detach().cpu().tolist())
    if isinstance(value, (np.ndarray, np.generic)):
        _check_size(value.size, value.shape)
        return to_json(value.tolist())
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
def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Read the rows that `JsonlLogger` wrote, also while it is writing.

    The strings "NaN", "Infinity" and "-Infinity" become floats again. A last line that was cut off
    (the run was killed, or is writing it) is left out.

    Args:
        path: the file.

    Returns:
        The rows, in the order they were written.

    Raises:
        DataError: the file does not exist, or a line other than the last is not a JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist or is no file: give the metrics file of a run")
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
            raise DataError(
                f"{path}, line {number}: not a JSON object ({line[:40]!r}...). The file was "
                f"changed by something else than JsonlLogger: remove the line"
            )
    return rows


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return {key: from_json(value) for key, value in row.items()} if isinstance(row, dict) else None


def _name_of(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _to_json_at(key: object, value: object) -> Any:
    try:
        return to_json(value)
    except DataError as error:
        raise DataError(f"{key}: {error}") from None


def _check_size(elements: int, shape: tuple[int, ...]) -> None:
    if elements > MAX_ELEMENTS:
        raise DataError(
            f"a tensor of shape {shape} is too large for a row of metrics (more than "
            f"{MAX_ELEMENTS} elements). Log its norm or mean, or save it to its own file"
        )


def _remove_cut_line(path: Path) -> None:
    """A run that was killed while writing leaves a line without an end: keep it if it is whole."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("r+b") as file:
        content = file.read()
        if content.endswith(b"\n"):
            return
        start = content.rfind(b"\n") + 1
        if _parse(content[start:].decode("utf-8", errors="replace")) is None:
            file.truncate(start)
        else:
            file.write(b"\n")

"""Metrics as lines of JSON: one row a line, readable during the run, whole if it is killed."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mlopt._arguments import checked, from_zero
from mlopt._errors import DataError, SettingsError
from mlopt._files import Lock, said
from mlopt.loggers.rows import Status
from mlopt.loggers.values import counts_in, from_json, to_json

__all__ = ["JsonlLogger", "read_jsonl"]

#: What the first row begins with of a logger that adds to the file of another. It is JSON, too.
_MARK = " "


class JsonlLogger:
    """Appends rows of metrics to a file, one JSON object a line.

    Each row is written through to the operating system before `log` returns: a run that is killed
    loses nothing it has logged, and a row that cannot be written leaves nothing of it. A line that
    an earlier run left half-written is removed first. One logger at a time has a file: in a
    distributed run, log on rank 0. Where one adds to the file of another, its first line begins
    with a space: a run that is resumed takes back its own rows alone.

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
        self._begins = os.path.exists(self.path)  # it is another's, until one goes on with it
        with contextlib.ExitStack() as locks:
            for lock in _locks(self.path):
                locks.enter_context(lock)
            with said(self.path, "written"):
                _remove_cut_line(self.path)
                self._file = self.path.open("ab", buffering=0)
                self._number = os.fstat(self._file.fileno()).st_ino
                self._written = _Written.of(self.path)
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
        mark = _MARK if self._begins else ""
        line = f"{mark}{json.dumps(plain, allow_nan=False)}\n".encode()
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
        self._written, self._begins = self._written.and_then(line), False

    @checked(SettingsError, size=from_zero)
    def cut(self, size: int) -> None:
        """Remove the rows behind a place in the file; a file that ends before it stays as it is.

        Args:
            size: of the file up to there, in bytes.

        Raises:
            SettingsError: the logger is closed, or the file cannot be written.
        """
        self._check_open()
        self._begins = False
        with said(self.path, "written"):
            if os.fstat(self._file.fileno()).st_size > size:
                os.truncate(self._file.fileno(), size)
                _remove_cut_line(self.path)
                self._written = _Written.of(self.path)

    def state_dict(self) -> dict[str, int]:
        """Which file it is, and how far it goes: a checkpoint of the run holds it."""
        return {**self._written._asdict(), "file": self._number}

    @checked(SettingsError)
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remove the rows since the state, which the run that is resumed logs again.

        Args:
            state: of `state_dict`. A file with another beginning stays as it is, and one to which
                another run has added since.

        Raises:
            SettingsError: it is no such state, the logger is closed, or the file cannot be written.
        """
        where = "JsonlLogger.load_state_dict(state=...)"
        size, crc32, number = counts_in(state, where, *_Written._fields, "file")
        self._check_open()
        with said(self.path, "read"):
            content = self.path.read_bytes()
        same = _Written(0, 0).and_then(content[: max(0, size)]) == (size, crc32)
        known = size > 0 or number == self._number  # every file begins with nothing
        since = content[max(0, size) :].split(b"\n")
        if same and known and not any(line.startswith(_MARK.encode()) for line in since):
            self.cut(size)

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


class _Written(NamedTuple):
    """The beginning of a file: its bytes and their checksum, by which it is known again."""

    size: int
    crc32: int

    @classmethod
    def of(cls, path: Path, size: int | None = None) -> _Written:
        """That of a file, as far as it goes."""
        with path.open("rb") as file:
            content = file.read() if size is None else file.read(size)
        return cls(0, 0).and_then(content)

    def and_then(self, content: bytes) -> _Written:
        """With more bytes at the end."""
        return _Written(self.size + len(content), zlib.crc32(content, self.crc32))


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
        if not ours and not (first is last and first.lstrip().startswith(b'{"')):
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

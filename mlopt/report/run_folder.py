"""The folder of one run: settings, environment, metrics, results, and nothing of another run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlopt._arguments import checked, from_zero, within
from mlopt._errors import DataError, SettingsError
from mlopt._files import FINISHED, INTERRUPTED, RUNNING, Lock, said, write_file, write_state
from mlopt.loggers import JsonlLogger, Several, read_jsonl, to_json
from mlopt.report.environment import environment
from mlopt.report.named_files import check_there, content_of, inside, json_of
from mlopt.report.refresh import Refresh
from mlopt.report.run_files import (
    ENVIRONMENT,
    LOCK,
    METRICS,
    SETTINGS,
    STATE,
    check_free,
    remove_run,
    state_of,
)  # fmt: skip

__all__ = ["RunFolder"]

#: The folders that this process writes to.
_writing: weakref.WeakValueDictionary[Path, RunFolder] = weakref.WeakValueDictionary()


class RunFolder:
    """A folder that holds everything about one run; `write_report` reads nothing else.

    Make one with `RunFolder.create` at the start of a run, or with `RunFolder.open` to read an
    existing run or to go on logging to it. It can be used as a context manager, which closes it,
    and says of a run that it is finished, or interrupted by what was raised (`state`).

    Each of its files is whole or not there, whenever a process is killed. One object at a time
    writes to a folder: from `create`, or from the first row after `open`, to `close`, or to the end
    of its process, however it ends. Everyone may read meanwhile, and write a report.

    Attributes:
        root: the folder.
        loggers: who is given rows besides metrics.jsonl; at first nobody. Who sets it closes it.
    """

    @checked(SettingsError)
    def __init__(self, path: str | Path) -> None:
        self.root = Path(path)
        self.loggers = Several([])
        self._logger: JsonlLogger | None = None
        self._runs = False  # and says so in the folder
        self._refresh: Refresh[RunFolder] | None = None
        self._lock = Lock(self.root / LOCK, f"run folder {self.root}")

    @classmethod
    @checked(SettingsError)
    def create(
        cls,
        path: str | Path,
        settings: Mapping[str, object],
        *,
        overwrite: bool = False,
        refresh: Callable[[RunFolder], object] | None = None,
    ) -> RunFolder:
        """Make the folder and write settings.json and environment.json into it.

        Args:
            path: the folder, for example `runs/first`; missing parents are made.
            settings: the settings of the run, by name.
            overwrite: remove the files of an earlier run that is in the folder, and of runs in its
                sub-folders, but not while another process writes to one. Files of other names than
                searches, retraining and reports write stay, those of `save` too. Of this process,
                the object that wrote to the folder is closed.
            refresh: called with the folder at once, then now and then while rows are logged, and
                when an error leaves its `with`: `write_report`, for one that shows the run as it
                goes. All calls take a hundredth of its time; one that fails is warned of, and last.

        Returns:
            The folder, ready to be logged to.

        Raises:
            SettingsError: the path is a file, or a folder that is not empty and may not be removed,
                or that cannot be written to, or another process writes to it.
            DataError: the settings cannot be written as JSON.
        """
        root = Path(path)
        plain = to_json(settings)
        check_free(root, overwrite)
        with said(root, "written"):
            root.mkdir(parents=True, exist_ok=True)
        folder = cls(root)
        if overwrite and root.resolve() in _writing:
            _writing[root.resolve()].close()
        folder._begin()
        try:
            check_free(root, overwrite)  # of two that begin at once, one sees the other's files
            with said(root, "written"):
                remove_run(root)
        except BaseException:
            folder.close()
            raise
        folder.save_json(ENVIRONMENT, environment())  # first: it tells whose folder this is
        folder.save_json(SETTINGS, plain)
        folder.go_on()
        if refresh is not None:
            folder._refresh = Refresh(refresh)
            folder._refresh.now(folder)
        return folder

    @classmethod
    @checked(SettingsError)
    def open(
        cls, path: str | Path, *, refresh: Callable[[RunFolder], object] | None = None
    ) -> RunFolder:
        """Open the folder of an existing run.

        Args:
            path: the folder.
            refresh: as of `create`, where the run goes on.

        Returns:
            The folder.

        Raises:
            SettingsError: there is no such folder, or it is not the folder of a run.
        """
        root = Path(path)
        with said(root, "read"):
            there, begun = root.is_dir(), (root / SETTINGS).is_file()
        if not there:
            raise SettingsError(f"run folder {root}: does not exist. Give the folder of a run")
        if not begun:
            raise SettingsError(
                f"run folder {root}: has no {SETTINGS}, so it is not the folder of a run. Give the "
                f"folder that RunFolder.create made, not one above or below it"
            )
        folder = cls(root)
        if refresh is not None:
            folder._refresh = Refresh(refresh)
        return folder

    @checked(DataError, step=within("(-inf, inf)"), epoch=within("(-inf, inf)"))
    def log(
        self,
        phase: str,
        *,
        step: float | None = None,  # float, so that **dict[str, float] is accepted for the metrics
        epoch: float | None = None,
        **metrics: object,
    ) -> None:
        """Append a row to metrics.jsonl.

        Args:
            phase: part of the run the row belongs to, for example "search".
            step: index of the step, if the row is about one.
            epoch: index of the epoch.
            **metrics: names and values; `**{"stage1/loss": 0.3}` for a name that is no identifier.

        Raises:
            DataError: a value cannot be written; nothing of the row is.
            SettingsError: the row cannot be written, or another one writes to the folder.
        """
        self.go_on()
        position = {"step": step, "epoch": epoch}
        row = {"phase": phase} | {k: v for k, v in position.items() if v is not None} | metrics
        self._open_log().log(row)
        self.loggers.log(row)
        if self._refresh is not None:
            self._refresh.when_due(self)

    @property
    def state(self) -> str:
        """`running`, `interrupted` (its process has ended in the middle of it) or `finished`.

        Raises:
            SettingsError: the file that says it cannot be read.
        """
        return state_of(self.root)

    def go_on(self) -> None:
        """Go on with a run that was interrupted: its folder says that it is running.

        Raises:
            SettingsError: the folder cannot say so, or another one writes to it.
        """
        self._begin()
        if not self._runs:
            write_state(self.root / STATE, RUNNING)
            self._runs = True

    def _open_log(self) -> JsonlLogger:
        if self._logger is None:
            self._logger = JsonlLogger(self.root / METRICS)
        return self._logger

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl in the order they were written; empty if nothing was logged."""
        path = self.root / METRICS
        return read_jsonl(path) if path.is_file() else []

    @property
    def logged(self) -> int:
        """How much has been logged, in bytes: for `cut`."""
        path = self.root / METRICS
        with said(path, "read"):
            return path.stat().st_size if path.is_file() else 0

    @checked(SettingsError, logged=from_zero)
    def cut(self, logged: int) -> None:
        """Take back what was logged later: a run that goes on from there logs it once more.

        Args:
            logged: what the property was there.

        Raises:
            SettingsError: the file cannot be written, or another one writes to the folder.
        """
        if self.logged > logged:
            self._begin()
            self._open_log().cut(logged)

    def save_json(self, name: str, content: object) -> Path:
        """Write a JSON file, whole or not at all.

        Args:
            name: name of the file in the folder, for example "result.json".
            content: what to write; tensors and numbers that are not finite as in `to_json`.

        Returns:
            The path of the file.

        Raises:
            DataError: the content cannot be written as JSON; nothing is.
            SettingsError: as `save`.
        """
        return self.save(name, json_of(content, inside(self.root, name)))

    @checked(SettingsError)
    def save(self, name: str, content: str | bytes) -> Path:
        """Write a file, whole or not at all.

        Args:
            name: name of the file in the folder, for example "notes.md".
            content: text, or the bytes of the file.

        Returns:
            The path of the file.

        Raises:
            SettingsError: the name leads out of the folder, is that of a file which is written in
                another way, the file cannot be written, or another one writes to the folder.
        """
        path = self.path(name)
        if path.parent == self.root and path.name in (METRICS, STATE, LOCK):
            raise SettingsError(f"{path}: is written by the run folder itself. Give another name")
        was_writing = self._lock.held
        self._begin()
        try:
            write_file(path, content)
        finally:
            if not was_writing:
                self._give_back()
        return path

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the folder.

        Args:
            name: name of the file in the folder.

        Returns:
            Its content, or None if there is no such file.

        Raises:
            DataError: the file is not JSON.
            SettingsError: the name leads out of the folder, or the file cannot be read.
        """
        path = inside(self.root, name)
        return content_of(path) if path.is_file() else None

    def path(self, name: str) -> Path:
        """The path of a file to write in the folder; its parents are made.

        What is written there by other means than `save` may be half written when a run is killed.

        Args:
            name: path relative to the folder, for example "samples/epoch_0007.png".

        Returns:
            The path.

        Raises:
            SettingsError: the name leads out of the folder, or its parents cannot be made.
        """
        path = inside(self.root, name)
        check_there(self.root)
        with said(path, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _begin(self) -> None:
        """Be the one that writes to the folder."""
        check_there(self.root)
        if not self._lock.held:
            self._lock.acquire()
            _writing[self.root.resolve()] = self

    @checked(SettingsError)
    def close(self, *, finished: bool = True) -> None:
        """Let others write to the folder; writing or logging again is possible if none does.

        Args:
            finished: whether the run that was created, or logged to, is over; or interrupted.

        Raises:
            SettingsError: the folder cannot say so; it is closed all the same.
        """
        runs, self._runs = self._runs, False
        try:
            if runs and self.root.is_dir():
                write_state(self.root / STATE, FINISHED if finished else INTERRUPTED)
        finally:
            self._give_back()

    def _give_back(self) -> None:
        if self._logger is not None:
            self._logger.close()
            self._logger = None
        self._lock.release()
        if _writing.get(self.root.resolve()) is self:
            del _writing[self.root.resolve()]

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.close(finished=error is None)
        except SettingsError:
            if error is None:  # else that is what has happened
                raise
        if error is not None and self._refresh is not None:
            self._refresh.now(self)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.root)!r})"

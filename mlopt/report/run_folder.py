"""The folder of one run: settings, environment, metrics, results, and nothing of another run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlopt._arguments import checked, within
from mlopt._errors import DataError, SettingsError
from mlopt.loggers import JsonlLogger, from_json, read_jsonl, to_json
from mlopt.report.environment import environment

__all__ = ["RunFolder"]

SETTINGS, ENVIRONMENT, METRICS = "settings.json", "environment.json", "metrics.jsonl"


class RunFolder:
    """A folder that holds everything about one run; `write_report` reads nothing else.

    Make one with `RunFolder.create` at the start of a run, or with `RunFolder.open` to read an
    existing run or to go on logging to it. It can be used as a context manager, which closes the
    metrics file.
    """

    @checked(SettingsError)
    def __init__(self, path: str | Path) -> None:
        self.root = Path(path)
        self._logger: JsonlLogger | None = None

    @classmethod
    @checked(SettingsError)
    def create(
        cls, path: str | Path, settings: Mapping[str, object], *, overwrite: bool = False
    ) -> RunFolder:
        """Make the folder and write settings.json and environment.json into it.

        Args:
            path: the folder, for example `runs/first`; missing parents are made.
            settings: the settings of the run, by name.
            overwrite: remove an earlier run that is in the folder. Only a folder that has the files
                of a run is ever removed.

        Returns:
            The folder, ready to be logged to.

        Raises:
            SettingsError: the path is a file, or a folder that is not empty and may not be removed.
            DataError: the settings cannot be written as JSON.
        """
        root = Path(path)
        plain = to_json(settings)
        if root.exists() and not root.is_dir():
            raise SettingsError(f"run folder {root}: is a file. Give another --run-folder")
        if root.is_dir() and any(root.iterdir()):
            _clear(root, overwrite)
        root.mkdir(parents=True, exist_ok=True)
        folder = cls(root)
        folder.save_json(SETTINGS, plain)
        folder.save_json(ENVIRONMENT, environment())
        return folder

    @classmethod
    @checked(SettingsError)
    def open(cls, path: str | Path) -> RunFolder:
        """Open the folder of an existing run.

        Args:
            path: the folder.

        Returns:
            The folder.

        Raises:
            SettingsError: there is no such folder, or it is not the folder of a run.
        """
        root = Path(path)
        if not root.is_dir():
            raise SettingsError(f"run folder {root}: does not exist. Give the folder of a run")
        if not (root / SETTINGS).is_file():
            raise SettingsError(
                f"run folder {root}: has no {SETTINGS}, so it is not the folder of a run. Give the "
                f"folder that RunFolder.create made, not one above or below it"
            )
        return cls(root)

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
        """
        position = {"step": step, "epoch": epoch}
        row = {"phase": phase} | {k: v for k, v in position.items() if v is not None} | metrics
        if self._logger is None:
            self._logger = JsonlLogger(self.root / METRICS)
        self._logger.log(row)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl in the order they were written; empty if nothing was logged."""
        path = self.root / METRICS
        return read_jsonl(path) if path.is_file() else []

    def save_json(self, name: str, content: object) -> Path:
        """Write a JSON file, whole or not at all.

        Args:
            name: name of the file in the folder, for example "result.json".
            content: what to write; tensors and numbers that are not finite as in `to_json`.

        Returns:
            The path of the file.
        """
        path = self.path(name)
        text = json.dumps(to_json(content), indent=2, allow_nan=False, ensure_ascii=False)
        half = path.with_name(f".{path.name}.part")
        half.write_text(text + "\n", encoding="utf-8")
        os.replace(half, path)
        return path

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the folder.

        Args:
            name: name of the file in the folder.

        Returns:
            Its content, or None if there is no such file.

        Raises:
            DataError: the file is not JSON.
        """
        path = self.root / name
        if not path.is_file():
            return None
        try:
            return from_json(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise DataError(f"{path}: is not JSON ({error}). Remove or repair the file") from None

    def path(self, name: str) -> Path:
        """The path of a file in the folder, whose parents are made.

        Args:
            name: path relative to the folder, for example "samples/epoch_0007.png".

        Returns:
            The path.

        Raises:
            SettingsError: the name leads out of the folder.
        """
        path = self.root / name
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise SettingsError(f"run folder {self.root}: {name} is outside. Give a relative name")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def close(self) -> None:
        """Close the metrics file; logging again opens it again."""
        if self._logger is not None:
            self._logger.close()
            self._logger = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RunFolder({str(self.root)!r})"


def _clear(root: Path, overwrite: bool) -> None:
    """Remove an earlier run, if that was asked for and if it is one."""
    if not overwrite:
        raise SettingsError(
            f"run folder {root}: already exists and is not empty. Give another name with "
            f"--run-folder, or --overwrite to remove what is in it"
        )
    if not ((root / SETTINGS).is_file() and (root / ENVIRONMENT).is_file()):
        raise SettingsError(
            f"run folder {root}: has no {SETTINGS} and {ENVIRONMENT}, so it is not the folder of a "
            f"run and is not removed, --overwrite or not. Give another name with --run-folder"
        )
    for item in root.iterdir():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()

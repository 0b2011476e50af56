"""Cells of a table of experiments: one row with one seed, which is one run folder.

    <folder>/cells/lfm_cw_darts-p-darts-cifar100-1a2b3c4d/seed3/

The last part of the first name stands for the settings. So rows of different tables that are the
same run share it, and a row whose settings were changed has another folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import mlopt
from mlopt.report import RunFolder

from ..settings import Settings
from .files import Taken, is_taken, locked, save
from .reading import referred
from .table import FREE, Row

#: Runs an example into the folder of its settings: of an evaluation, which genotype; and whether to
#: go on with what is there.
Runner = Callable[[str, Settings, str, bool], Any]


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        row: what it belongs to.
        s: its settings; `run_folder` is its folder.
        search: the search whose genotype it evaluates, if it does.
    """

    row: Row
    s: Settings
    search: Cell | None = None

    @classmethod
    def make(cls, row: Row, preset: str, seed: int, given: Mapping[str, Any], folder: Path) -> Cell:
        """A cell of a row.

        Args:
            row: of a table.
            preset: that the row starts from.
            seed: of the run.
            given: settings that are put above those of the row.
            folder: of all experiments.

        Raises:
            SettingsError: the preset does not exist, or the row takes the genotype of no other one.
        """
        other = referred(row)
        search = cls.make(other, preset, seed, given, folder) if other else None
        s = row.resolved(preset, given)
        found = search.identity if search else row.genotype
        words = [row.example, s.space, s.dataset, _digest(row.example, found, s)]
        path = folder / "cells" / "-".join(words) / f"seed{seed}"
        return cls(row, dataclasses.replace(s, seed=seed, run_folder=str(path)), search)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.s.run_folder)

    @property
    def title(self) -> str:
        """What to call it where progress is told."""
        return f"{self.row.label}, seed {self.s.seed}"

    @property
    def identity(self) -> str:
        """What all seeds of the same run have in common."""
        return self.folder.parent.name

    @property
    def failure(self) -> Path:
        """The file with the error, if the last attempt ended in one."""
        return self.folder.with_name(f"{self.folder.name}.error.json")

    @property
    def output(self) -> Path:
        """The file with what it prints, where it has a process of its own."""
        return self.folder.with_name(f"{self.folder.name}.log")

    def result(self) -> dict[str, Any] | None:
        """The first row of its result.json; None if it is not finished."""
        if not (self.folder / "result.json").is_file():
            return None
        return RunFolder.open(self.folder).read_json("result.json")["rows"][0]

    def error(self) -> str:
        """What ended its last attempt; "" if nothing did."""
        if self.result() is not None or not self.failure.is_file():
            return ""
        return json.loads(self.failure.read_text(encoding="utf-8"))["error"]

    def state(self) -> str:
        """One of done, running, failed, half done, to run."""
        if self.result() is not None:
            return "done"
        if is_taken(self._lock):
            return "running"
        if self.failure.is_file():
            return "failed"
        return "half done" if self.folder.exists() else "to run"

    def check(self) -> None:
        """Refuse a folder that an earlier version made with other defaults of the settings.

        Raises:
            SettingsError: it is one.
        """
        if self.result() is None:
            return
        for name, there, here in self._others() or ():
            raise mlopt.SettingsError(
                f"{self.folder} was run with {name} = {there!r}, and {self.row.where} is now "
                f"{here!r}. Remove that folder, or give another --folder."
            )

    def _others(self) -> list[tuple[str, Any, Any]] | None:
        """Settings of the run in its folder that are others here; None if none has begun there."""
        path = self.folder / "settings.json"
        try:
            there = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        except ValueError:  # it is somebody else's
            return None
        if not isinstance(there, dict):
            return None
        here = json.loads(json.dumps(dataclasses.asdict(self.s)))
        names = sorted(here.keys() & there.keys() - set(FREE))
        return [(n, there[n], here[n]) for n in names if here[n] != there[n]]

    def attempt(self, start: Runner, patience: float = 0.0) -> str:
        """Run it, unless it is finished or another process is at it.

        A search that it evaluates has been attempted before.

        Args:
            start: runs an example.
            patience: seconds to wait for another process to be through: of a cell whose process
                died with its machine, some file systems keep the lock for a while.

        Returns:
            What became of it: done, running (elsewhere, or its search is), or failed, which the
            file `failure` says more of.
        """
        until = monotonic() + patience
        while True:
            try:
                self.run(start)
            except Taken:
                if monotonic() >= until:
                    return "running"
                sleep(1.0)
            except Exception as error:  # the other cells go on
                traceback.print_exc(file=sys.stderr)
                self.fail(f"{type(error).__name__}: {error}", traceback.format_exc())
                return "failed"
            else:
                return "done"

    def fail(self, error: str, trace: str = "") -> None:
        """Write down what ended its last attempt.

        Args:
            error: in a line.
            trace: where it was raised.
        """
        content = {"error": error, "traceback": trace}
        save(self.failure, json.dumps(content, indent=2) + "\n")

    def run(self, start: Runner) -> None:
        """Run it, unless it is finished.

        Args:
            start: runs an example.

        Raises:
            Taken: another process runs it, or the search that it evaluates.
            MloptError: that search failed.
        """
        if self.result() is not None:
            return
        if self.search is not None and self.search.result() is None:
            where = self.search.row.where
            if error := self.search.error():
                raise mlopt.MloptError(f"the search of {where} failed: {error}")
            raise Taken(f"the search of {where} is not finished.")
        with locked(self._lock):
            if self.result() is not None:  # finished by another process meanwhile
                return
            self.failure.unlink(missing_ok=True)
            # An earlier attempt goes on. One of an earlier version, with other defaults, is
            # replaced; other files in its folder stay.
            s = dataclasses.replace(self.s, overwrite=True)
            genotype = str(self.search.folder) if self.search else self.row.genotype
            start(self.row.example, s, genotype, self._others() == [])

    @property
    def _lock(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}.lock")


def _digest(example: str, genotype: str, s: Settings) -> str:
    """Stands for a run; a setting that is added to `Settings` later does not change it."""
    own = {
        f.name: getattr(s, f.name)
        for f in dataclasses.fields(s)
        if f.name not in FREE and getattr(s, f.name) != f.default
    }
    text = json.dumps([example, genotype, own], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]

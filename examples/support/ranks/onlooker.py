"""The run folder as another rank than the first has it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from mlopt.report import RunFolder


class Onlooker(RunFolder):
    """A run folder that the first rank writes to: this one writes nothing, and takes no lock.

    What is logged or saved is dropped, for the first rank logs and saves the same.
    """

    def log(self, phase: str, **row: Any) -> None:
        """Drop a row."""

    def go_on(self) -> None:
        """The first rank says that the run goes on."""

    @property
    def logged(self) -> int:
        """Nothing."""
        return 0

    def cut(self, logged: int) -> None:
        """The first rank takes back what was logged later."""

    def save(self, name: str, content: str | bytes) -> Path:
        """Drop a file."""
        return self.root / name

    def save_json(self, name: str, content: object) -> Path:
        """Drop a file."""
        return self.root / name

    def path(self, name: str) -> NoReturn:
        """Refuse a path to write to."""
        raise RuntimeError(f"{self.root / name}: would be written by another rank than the first.")

    def close(self, *, finished: bool = True) -> None:
        """The first rank says how the run has ended."""

    @classmethod
    def create(cls, path: str | Path, settings: Mapping[str, object], **how: Any) -> NoReturn:
        """Refuse to make a folder."""
        raise RuntimeError(f"{path}: would be made by another rank than the first.")

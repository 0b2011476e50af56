"""A table with its cells: what is done, and the mean over the seeds of each row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlopt.nas import spread

from .cell import Cell
from .table import FREE, Row, Table


@dataclass(frozen=True)
class Line:
    """A row of a table with its cells, one for each seed."""

    row: Row
    cells: Sequence[Cell]

    def results(self) -> list[dict[str, Any]]:
        """Of the seeds that are finished."""
        return [result for cell in self.cells if (result := cell.result()) is not None]

    def errors(self) -> dict[int, str]:
        """Of the seeds that failed."""
        found = {cell.s.seed: cell.error() for cell in self.cells}
        return {seed: error for seed, error in found.items() if error}

    def summary(self) -> dict[str, Any]:
        """Mean and deviation over the finished seeds, beside the published figure."""
        results = self.results()
        found: dict[str, Any] = {
            "name": self.row.label,
            "row": self.row.name,
            "seeds": len(results),
            "of": len(self.cells),
            "published": self.row.published,
            "published_deviation": self.row.published_deviation,
            "source": None if self.row.published is None else self.row.source,
            "errors": {str(seed): error for seed, error in self.errors().items()},
        }
        if not results:
            return found
        error = spread(result["test_error"] for result in results)
        found |= {"test_error": error.mean, "deviation": error.deviation}
        for key in ("test_error_top5", "parameters", "multiply_adds", "passes"):
            found[key] = _mean(results, key)
        for what in ("search", "retrain"):
            key = "search_device" if what == "search" else "device"
            devices = {result.get(key, result.get("device", "cpu")) for result in results}
            if len(devices) == 1:  # times of different devices have no mean
                found[f"{what}_seconds"] = _mean(results, f"{what}_seconds")
                found[f"{what}_device"] = devices.pop()
        return found


@dataclass(frozen=True)
class Experiment:
    """A table with its cells.

    Attributes:
        table: what is run.
        preset: that all rows start from.
        given: settings that are put above those of the rows.
        lines: the rows with their cells.
        folder: of all experiments.
    """

    table: Table
    preset: str
    given: Mapping[str, Any]
    lines: Sequence[Line]
    folder: Path

    @property
    def root(self) -> Path:
        """The folder of the table."""
        return self.folder / f"{self.table.name}-{self.preset}"

    @property
    def changed(self) -> dict[str, Any]:
        """What was given that changes the runs."""
        return {name: value for name, value in self.given.items() if name not in FREE}

    @property
    def comparable(self) -> bool:
        """Whether the runs are those of the paper: its data set and a preset with its budget."""
        same = all(line.row.dataset == line.cells[0].s.dataset for line in self.lines)
        return same and self.preset != "quick" and not self.changed

    @property
    def command(self) -> str:
        """That makes the table again."""
        seeds = " ".join(str(cell.s.seed) for cell in self.lines[0].cells)
        words = f"--table {self.table.name} --preset {self.preset} --seeds {seeds}"
        more = " ".join(f"{name}={json.dumps(value)}" for name, value in self.changed.items())
        return f"python examples/experiments.py {words}{f' --set {more}' if more else ''}"


def _mean(results: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [result[key] for result in results if result.get(key) is not None]
    return spread(values).mean if values else None

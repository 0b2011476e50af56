"""What a report needs of a run folder; what is malformed is left out, and said."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlopt._errors import MloptError
from mlopt.loggers import read_jsonl
from mlopt.report.figures import Line
from mlopt.report.forms import read_part
from mlopt.report.positions import number, positions
from mlopt.report.run_files import METRICS
from mlopt.report.state import State

__all__ = ["RunData", "lines_of", "metric_of"]

#: Where a row stands and what it took: no curves.
_POSITION = {
    "phase", "stage", "step", "epoch", "seconds", "between_seconds", "passes", "between_passes",
    "class_losses",
}  # fmt: skip
_LEARNER = re.compile(r"learner_(\d+)/(.+)")
_FIRST_BYTES = {".png": b"\x89PNG", ".jpg": b"\xff\xd8", ".gif": b"GIF8", ".svg": b""}
#: The phase whose rows are about steps; those of the others are about an epoch each.
_STEPS = "search"


@dataclass(frozen=True)
class RunData:
    """The files of one run, read.

    Attributes:
        name: what the run is called in legends.
        phases: rows of metrics.jsonl by phase, each step once.
        files: content of settings.json, environment.json, result.json, genotype.json and
            learners.json; rows of the result have text as their names.
        cells: drawings of the learned cells.
        samples: grids of generated images with their captions, in the order of the epochs.
        state: whether it goes on.
        left_out: a sentence for each part of a file that could not be read.
    """

    name: str
    phases: Mapping[str, list[dict[str, Any]]]
    files: Mapping[str, Any] = field(default_factory=dict)
    cells: list[Path] = field(default_factory=list)
    samples: list[tuple[str, Path]] = field(default_factory=list)
    state: State = State("finished")
    left_out: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, root: Path, name: str) -> RunData:
        """Read a folder; a file that does not exist is nothing.

        Args:
            root: the folder.
            name: what to call the run.

        Returns:
            What is in it.
        """
        left_out: list[str] = []
        phases: dict[str, dict[Any, dict[str, Any]]] = {}
        logged = _metrics(root / METRICS, left_out)
        for index, row in enumerate(logged):
            # a run that was killed and resumed logs some steps twice: the later value counts
            place = row.get("step", row.get("epoch", ("row", index)))
            rows = phases.setdefault(str(row.get("phase", "")), {})
            rows[str(place)] = rows.get(str(place), {}) | row
        files = {
            part: read_part(root, part, left_out)
            for part in ("settings", "environment", "result", "genotype", "learners")
        }
        samples = _pictures(root / "samples", "*", left_out)
        return cls(
            name=name,
            phases={phase: list(rows.values()) for phase, rows in phases.items()},
            files=files,
            cells=_pictures(root, "cells*", left_out),
            samples=[(_caption(path), path) for path in samples],
            state=State.read(root, logged),
            left_out=left_out,
        )

    @staticmethod
    def comparisons(root: Path) -> list[Path]:
        """Folders of further runs below this one, such as `darts/`."""
        return [
            path
            for path in sorted(root.iterdir())
            if any(os.path.isfile(path / name) for name in (METRICS, "genotype.json"))
        ]

    @property
    def result(self) -> dict[str, Any]:
        """Content of result.json; empty if there is none."""
        result = self.files.get("result")
        return result if isinstance(result, dict) else {}

    def rows(self) -> list[dict[str, Any]]:
        """Rows of result.json that have a name, the run's own first."""
        return self.result.get("rows", [])

    def keys(self, phase: str) -> list[str]:
        """Names of the metrics of a phase that are numbers, in the order they first occur."""
        return list(
            dict.fromkeys(
                key
                for row in self.phases.get(phase, [])
                for key, value in row.items()
                if key not in _POSITION and isinstance(value, (int, float))
            )
        )

    def line(self, phase: str, key: str, *, label: str | None = None, series: int = 0) -> Line:
        """A metric over the epochs of its phase.

        Args:
            phase: the phase.
            key: name of the metric.
            label: text at the line's end; by default the name of the run.
            series: colour of the line.

        Returns:
            The line, empty if nothing was logged.
        """
        points = self._points(phase, lambda row: row.get(key))
        until = self._untrained(phase, key)
        return Line(self.name if label is None else label, *points, series, until)

    def learners(self, phase: str, metric: str) -> list[tuple[int, str]]:
        """The learners that log "learner_1/<metric>": the place of each, and that name."""
        found = [(match, key) for key in self.keys(phase) if (match := _LEARNER.fullmatch(key))]
        return [(int(match[1]), key) for match, key in found if match[2] == metric]

    def class_lines(self) -> list[Line]:
        """The class losses of the search, one line per class, named from result.json."""
        search = self.phases.get(_STEPS, [])
        found = [row["class_losses"] for row in search if _has_classes(row)]
        classes = max(map(len, found), default=0)
        names = self.result.get("class_names")
        names = [str(name) for name in names] if isinstance(names, list) else []
        names += [f"class {index}" for index in range(len(names), classes)]

        def loss(row: dict[str, Any], index: int) -> Any:
            there = _has_classes(row) and index < len(row["class_losses"])
            return row["class_losses"][index] if there else None

        return [
            Line(names[index], *self._points(_STEPS, lambda row, index=index: loss(row, index)))
            for index in range(classes)
        ]

    def _untrained(self, phase: str, key: str) -> float:
        """The last position at which a metric is that of a network which is not trained yet."""
        metric = metric_of(key)
        if not metric.startswith("validation/") and metric != "gap":
            return -math.inf
        trained = key.removesuffix(metric) + "trained"
        places, _ = self._points(phase, lambda row: 1 if row.get(trained) is False else None)
        return max(places, default=-math.inf)

    def _points(
        self, phase: str, value: Callable[[dict[str, Any]], Any]
    ) -> tuple[list[float], list[float]]:
        """Positions among all rows of the phase, and the numbers at those rows that have one."""
        rows = self.phases.get(phase, [])
        places = positions(rows, each_epoch=phase != _STEPS)
        pairs = [(x, number(value(row))) for x, row in zip(places, rows, strict=True)]
        points = [(x, y) for x, y in pairs if y is not None]
        return [x for x, _ in points], [y for _, y in points]

    def seconds(self, phase: str) -> list[float]:
        """What each step or epoch took, whether the rows say that or the time since the start."""
        return [seconds for _, _, seconds in self.timed(phase)]

    def timed(self, phase: str) -> list[tuple[dict[str, Any], float, float]]:
        """What the steps up to each row took, without what was done between epochs.

        Args:
            phase: the phase.

        Returns:
            Of each row that has a time: the row, the steps since the one before, seconds of each.
        """
        rows = [row for row in self.phases.get(phase, []) if number(row.get("seconds")) is not None]
        times = [float(row["seconds"]) for row in rows]
        between = [number(row.get("between_seconds")) for row in rows]
        rising = len(times) > 2 and all(a <= b for a, b in itertools.pairwise(times))
        if not rising and (not rows or None in between):
            return [(row, 1.0, time) for row, time in zip(rows, times, strict=True)]
        times = [time - (other or 0.0) for time, other in zip(times, between, strict=True)]
        at = [number(row.get("step", row.get("epoch"))) or 0.0 for row in rows]
        steps = [max(b - a, 1.0) for a, b in itertools.pairwise(at)]
        indices = at[0] == 0 or at[0] + 1 in steps[:1]  # of steps from 0, or how many are done
        steps = [max(at[0] + indices, 1.0), *steps]
        spent = [b - a for a, b in itertools.pairwise([0.0, *times])]
        return [(r, n, t / n) for r, n, t in zip(rows, steps, spent, strict=True)]

    def total_seconds(self, phase: str) -> float:
        """What the rows of a phase took together."""
        times = [number(row.get("seconds")) or 0.0 for row in self.phases.get(phase, [])]
        rising = len(times) > 2 and all(a <= b for a, b in zip(times, times[1:], strict=False))
        return times[-1] if rising else sum(times)


def lines_of(runs: Sequence[RunData], phase: str, metric: str) -> list[Line]:
    """A metric of runs and of their learners.

    Args:
        runs: whose place is the colour of a run's own line; learners have the colours after them.
        phase: the phase.
        metric: its name without a learner's.

    Returns:
        The lines; a learner is called by its run, too, if several runs have learners.
    """
    own = [
        run.line(phase, metric, series=place)
        for place, run in enumerate(runs)
        if metric in run.keys(phase)
    ]
    groups = [(run, found) for run in runs if (found := run.learners(phase, metric))]
    series = len(runs) - 1
    for run, found in groups:
        first = f"{run.name} " if len(groups) > 1 else ""
        own += [
            run.line(phase, key, label=f"{first}learner {place}", series=series + place)
            for place, key in found
        ]
        series += max(place for place, _ in found)
    return own


def metric_of(key: str) -> str:
    """The name of a metric without the name of its learner."""
    match = _LEARNER.fullmatch(key)
    return match[2] if match else key


def _has_classes(row: dict[str, Any]) -> bool:
    return isinstance(row.get("class_losses"), list)


def _metrics(path: Path, left_out: list[str]) -> list[dict[str, Any]]:
    if not os.path.lexists(path):
        return []
    try:
        return read_jsonl(path, left_out)
    except MloptError as error:
        left_out.append(str(error))
        return []


def _pictures(folder: Path, pattern: str, left_out: list[str]) -> list[Path]:
    """Pictures whose content is what the name says, each once, SVG before PNG."""
    found: dict[str, Path] = {}
    try:
        for path in sorted(folder.glob(pattern)) if folder.is_dir() else []:
            if path.suffix.lower() not in _FIRST_BYTES or not path.is_file():
                continue
            if not _is_picture(path):
                left_out.append(f"{path.relative_to(folder.parent)}: is no picture of its kind.")
            elif path.stem not in found or path.suffix.lower() == ".svg":
                found[path.stem] = path
    except OSError as error:
        left_out.append(f"Pictures of {folder.name} cannot be read ({error}).")
    return list(found.values())


def _is_picture(path: Path) -> bool:
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        start = file.read(4096)
    return b"<svg" in start if suffix == ".svg" else start.startswith(_FIRST_BYTES[suffix])


def _caption(path: Path) -> str:
    match = re.fullmatch(r"epoch[_-]?0*(\d+)", path.stem)
    return f"epoch {match[1]}" if match else path.stem.replace("_", " ")

"""What comes of a table of experiments, in text: table.md and table.json."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlopt.nas import Spread
from mlopt.report import format_table

from ..results import cost
from .cell import Cell
from .experiment import Experiment
from .files import save
from .table import FREE

#: What papers call the data sets.
DATASETS = {
    "digits": "the digits",
    "fashion-mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet": "ImageNet",
}


def write(experiment: Experiment) -> str:
    """Write table.md and table.json into the folder of the table; the text of table.md."""
    root = experiment.root
    text = markdown(experiment)
    save(root / "table.md", text)
    content = {
        "table": experiment.table.name,
        "title": experiment.table.title,
        "preset": experiment.preset,
        "comparable": experiment.comparable,
        "rows": [
            {
                **line.summary(),
                "settings": _settings(line.cells[0]),
                "runs": {cell.s.seed: os.path.relpath(cell.folder, root) for cell in line.cells},
                "states": {cell.s.seed: cell.state() for cell in line.cells},
            }
            for line in experiment.lines
        ],
    }
    save(root / "table.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return text


def markdown(experiment: Experiment) -> str:
    """The table and all that a reader must know of it."""
    rows = shown(experiment)
    failures = "\n".join(
        f"- {line.row.label}, seed {seed} failed: {' '.join(error.split())}"
        for line in experiment.lines
        for seed, error in line.errors().items()
    )
    parts = [
        f"# {experiment.table.title}",
        format_table(rows, columns(rows), markdown=True),
        *notes(experiment),
        failures,
        f"`{experiment.command}`",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def shown(experiment: Experiment) -> list[dict[str, Any]]:
    """The rows as the table shows them."""
    found = []
    for line in experiment.lines:
        row, on_imagenet = line.summary(), line.cells[0].s.dataset == "imagenet"
        found.append(
            {
                "name": row["name"],
                "error": _text(row.get("test_error"), row.get("deviation")),
                "seeds": f"{row['seeds']} of {row['of']}",
                "published": _text(row["published"], row["published_deviation"]),
                "top5": row.get("test_error_top5") if on_imagenet else None,
                "parameters": row.get("parameters"),
                "multiply_adds": row.get("multiply_adds"),
                "search": cost(row.get("search_seconds"), row.get("search_device")),
                "retraining": cost(row.get("retrain_seconds"), row.get("retrain_device")),
                "failed": ", ".join(f"seed {seed}" for seed in row["errors"]) or None,
            }
        )
    return found


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The headings of those columns that any row fills."""
    headings = {
        "name": "",
        "error": "test error, %",
        "seeds": "seeds",
        "published": "in the paper, %",
        "top5": "top-5 error, %",
        "parameters": "parameters",
        "multiply_adds": "multiply-adds",
        "search": "search",
        "retraining": "retraining",
        "failed": "failed",
    }
    return {
        key: heading
        for key, heading in headings.items()
        if key == "error" or any(row[key] is not None for row in rows)
    }


def notes(experiment: Experiment) -> list[str]:
    """What the figures are of, and whether those of the paper can be compared with them."""
    lines = experiment.lines
    seeds = [str(cell.s.seed) for cell in lines[0].cells]
    done, cells = sum(len(line.results()) for line in lines), len(lines) * len(seeds)
    changed = "".join(f", {name} = {value}" for name, value in experiment.changed.items())
    found = [
        f"Preset {experiment.preset}{changed}; {_datasets(line.cells[0].s for line in lines)}; "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}; {done} of {cells} runs are done. "
        "Mean ± standard deviation over seeds; parameters and times are means."
    ]
    published = [line for line in lines if line.row.published is not None]
    for source, labels in _groups((line.row.source, line.row.label) for line in published).items():
        of = "" if len(labels) == len(published) else f" of {' and '.join(labels)}"
        found.append(f"The paper's figures{of}: {source}.")
    if published and not experiment.comparable:
        found.append(
            f"They are of {_datasets(line.row for line in published)} with the paper's budget; "
            "these runs have another one, so the two cannot be compared."
        )
    for labels in _groups((line.cells[0].identity, line.row.label) for line in lines).values():
        if len(labels) > 1:
            found.append(f"{' and '.join(labels)} are one and the same run here.")
    return [*found, *([" ".join(experiment.table.note.split())] if experiment.table.note else [])]


def _datasets(of: Iterable[Any]) -> str:
    return " and ".join(dict.fromkeys(DATASETS[x.dataset] for x in of))


def _groups(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def _settings(cell: Cell) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(cell.s).items() if k not in FREE}


def _text(mean: float | None, deviation: float | None) -> str | None:
    return None if mean is None else str(Spread(mean, deviation, 1))

"""Several runs side by side on one page: results, settings that differ, cells, curves, cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mlopt._arguments import checked
from mlopt._errors import SettingsError
from mlopt.report.alarms import alarms
from mlopt.report.cost import cost
from mlopt.report.curves import curves
from mlopt.report.document import refuse_other, write_document
from mlopt.report.page import section, table
from mlopt.report.result import BASELINES, result
from mlopt.report.run_data import RunData
from mlopt.report.run_folder import RunFolder
from mlopt.report.sections import cells, details, flat
from mlopt.report.weights import weights

__all__ = ["write_comparison"]

#: What is another in every run, and says nothing.
_OWN = {"run_folder", "overwrite"}


@checked(SettingsError)
def write_comparison(folders: Sequence[str | Path], path: str | Path = "comparison.html") -> Path:
    """Write one page of several runs, each with its own colour and dashes in every chart.

    The runs are called by their folders. What `write_report` reads of a run is read of each of
    them; runs in their sub-folders are not.

    Args:
        folders: of the runs, two at least.
        path: the page.

    Returns:
        Its path.

    Raises:
        SettingsError: there is one folder alone, one twice, one that is not of a run, or the page
            cannot be written, or would replace something else.
    """
    roots = [RunFolder.open(folder).root.resolve() for folder in folders]
    if len(set(roots)) < max(2, len(roots)):
        raise SettingsError(
            f"write_comparison(folders={[str(folder) for folder in folders]}): takes two runs or "
            f"more, each once."
        )
    path = Path(path)
    if not path.name:
        raise SettingsError(f"write_comparison(path={str(path)!r}): names no file. Give one.")
    refuse_other(path)
    runs = [
        _named(RunData.read(root, name), name, baselines=place == 0)
        for place, (root, name) in enumerate(zip(roots, _names(roots), strict=True))
    ]
    names = [run.name for run in runs]
    title = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) < 5 else f"{len(names)} runs"
    write_document(
        path,
        title,
        [
            ("Result", lambda: result(title, runs, headline=False)),
            ("Differences", lambda: _differences(runs)),
            ("Cells", lambda: cells(runs)),
            ("Architecture weights", lambda: weights(runs)),
            ("Alarms", lambda: alarms(runs)),
            ("Training curves", lambda: curves(runs)),
            ("Cost", lambda: cost(runs)),
            ("Settings and environment", lambda: details(runs)),
        ],
        runs,
        ", ".join(names),
    )
    return path


def _names(roots: Sequence[Path]) -> list[str]:
    """The last part of each path; as much more as tells them apart."""
    parts = [root.parts for root in roots]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(root) for root in roots]


def _named(run: RunData, name: str, *, baselines: bool) -> RunData:
    """The run with its own row alone, by the name of its folder, and the baselines if asked for."""
    rows = run.rows()
    own = [{**(rows[0] if rows else {}), "name": name}]
    also = [row for row in rows[1:] if baselines and row["name"].lower() in BASELINES]
    shown = {**run.result, "rows": [*own, *also], "notes": []}
    return dataclasses.replace(run, files={**run.files, "result": shown})


def _differences(runs: Sequence[RunData]) -> str:
    """The settings that are not the same in all runs."""
    settings = [run.files.get("settings") for run in runs]
    known = [found if isinstance(found, dict) else {} for found in settings]
    data = [str(run.result["dataset"]) if run.result.get("dataset") else None for run in runs]
    known = [{"data": name, **found} for name, found in zip(data, known, strict=True)]
    rows = []
    for name in dict.fromkeys(name for found in known for name in found):
        values = [flat(found.get(name)) for found in known]
        if name not in _OWN and len(set(values)) > 1:
            rows.append([name, *values])
    same = "" if rows else "<p>All settings are the same.</p>"
    return section(
        "What differs in the settings", "", same, table(["", *[run.name for run in runs]], rows)
    )

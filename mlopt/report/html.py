"""The report of a run: one HTML file that needs no network, made of the run folder's files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mlopt._arguments import checked
from mlopt._errors import SettingsError
from mlopt.report.alarms import alarms
from mlopt.report.learners import learners
from mlopt.report.page import page
from mlopt.report.result import result
from mlopt.report.run_data import RunData
from mlopt.report.run_folder import RunFolder
from mlopt.report.sections import cells, cost, curves, details, mistakes

__all__ = ["write_report"]


@checked(SettingsError)
def write_report(folder: RunFolder | str | Path, name: str = "report.html") -> Path:
    """Write the report of a run into its folder; a part without data is left out.

    These files are read, all of them optional:

    - `settings.json`, `environment.json`: as `RunFolder.create` writes them;
    - `metrics.jsonl`: rows as `RunFolder.log` writes them, of the phases "search" (a row per step:
      `seconds`, `<problem>/loss`, `class_losses`), "search-epoch" (`validation/error` in percent,
      `validation/loss`, `entropy/normal` and `entropy/reduce` in nats, `skips/normal`,
      `none/normal` and `alarms`, a list of sentences; see `mlopt.nas.CollapseMonitor`) and
      "retrain" (a row per epoch: `train/loss`, `train/error` in percent, `lr`, `seconds`);
    - `result.json`: `title`, `dataset`, `class_names`, `notes`, and `rows`, the run's own first:
      `name`, `test_error` and `standard_error` in percent, `parameters`, `search_seconds`,
      `passes` (of networks, in the whole search), `evaluations` (of objectives and signals, in a
      search step), `memory_mb` at its peak;
    - `cells*.svg` or `.png`, `genotype.json`, `samples/epoch_0007.png` and so on;
    - `learners.json`, for a run of several learners, who log "learner_1/validation/loss" and so on:
      `learners`, the chosen one first, with `name`, `genotype` (text), what a row of result.json
      has, and the last values of the metrics of "search-epoch"; `pairs`, with `names`, `edges`,
      `operations` and `total_variation`;
    - sub-folders with a run to compare with (for example `darts/`), which hold the same files.

    Args:
        folder: the folder of the run.
        name: name of the report in it.

    Returns:
        The path of the report.
    """
    root = folder.root if isinstance(folder, RunFolder) else RunFolder.open(folder).root
    names = [str(row.get("name")) for row in RunData.read(root, "").rows()]
    run = RunData.read(root, names[0] if names else root.resolve().name)
    others = [RunData.read(path, _name(path, names)) for path in RunData.comparisons(root)]
    runs = [run, *others]
    title = str(run.result.get("title") or root.resolve().name)
    environment = run.files.get("environment")
    version = environment.get("mlopt") if isinstance(environment, dict) else None
    document = page(
        title,
        [
            result(title, runs),
            learners(run),
            cells(runs),
            alarms(runs),
            mistakes(run),
            curves(runs),
            cost(runs),
            details(runs),
        ],
        f"Written by mlopt{f' {version}' if version else ''} from the files of "
        f"{root.resolve().name}. This page loads nothing and can be passed on as it is.",
    )
    path = root / name
    half = path.with_name(f".{path.name}.part")
    half.write_text(document, encoding="utf-8")
    os.replace(half, path)
    return path


def _name(path: Path, names: Sequence[str]) -> str:
    """What the result calls the run of a sub-folder; the folder's name if it does not name it."""
    folder = path.name.lower()
    return next((name for name in names if name.lower().startswith(folder)), path.name)

"""The report of a run: one HTML file that needs no network, made of the run folder's files."""

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
from mlopt.report.learners import learners
from mlopt.report.result import result
from mlopt.report.run_data import RunData
from mlopt.report.run_folder import RunFolder
from mlopt.report.sections import cells, details, mistakes
from mlopt.report.weights import weights

__all__ = ["write_report"]


@checked(SettingsError)
def write_report(folder: RunFolder | str | Path, name: str = "report.html") -> Path:
    """Write the report of a run into its folder; a part without data is left out.

    What cannot be read or shown is left out too, and named at the end of the report.

    These files are read, all of them optional:

    - `settings.json`, `environment.json`: as `RunFolder.create` writes them;
    - `metrics.jsonl`: rows as `RunFolder.log` writes them, of the phases "search" (a row per step:
      `seconds`, `<problem>/loss`, `<problem>/lr`, `class_losses`; where they are counted, `passes`
      of networks up to it, and `between_seconds` and `between_passes`, what of these was done
      between epochs),
      "plan" (where the engine's plan of a step has changed: `step`, `evaluations`, `backwards`),
      "search-epoch" (`validation/error` in percent,
      `validation/loss`, `entropy/normal` and `entropy/reduce` in nats, `skips/normal`,
      `none/normal`; `weights/normal` and `weights/reduce`, tables of the mixtures with a row for
      each edge, whose columns `operations` names; `trained`, whether the network that is validated
      is trained yet; and `alarms`, a list of sentences; see `mlopt.nas.CollapseMonitor`) and
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

    Raises:
        SettingsError: it is not the folder of a run, the name leads out of it or is that of a file
            which is no report, or the report cannot be written.
    """
    run_folder = folder if isinstance(folder, RunFolder) else RunFolder.open(folder)
    root, path = run_folder.root, run_folder.path(name)
    refuse_other(path)
    run = RunData.read(root, root.resolve().name)
    names = [row["name"] for row in run.rows()]
    run = dataclasses.replace(run, name=names[0] if names else run.name)
    others = [RunData.read(path, _name(path, names)) for path in RunData.comparisons(root)]
    runs = [run, *others]
    title = str(run.result.get("title") or root.resolve().name)
    write_document(
        path,
        title,
        [
            ("Result", lambda: result(title, runs)),
            ("Learners", lambda: learners(run)),
            ("Cells", lambda: cells(runs)),
            ("Architecture weights", lambda: weights(runs)),
            ("Alarms", lambda: alarms(runs)),
            ("Mistakes", lambda: mistakes(run)),
            ("Training curves", lambda: curves(runs)),
            ("Cost", lambda: cost(runs)),
            ("Settings and environment", lambda: details(runs)),
        ],
        runs,
        root.resolve().name,
    )
    return path


def _name(path: Path, names: Sequence[str]) -> str:
    """What the result calls the run of a sub-folder; the folder's name if it does not name it."""
    folder = path.name.lower()
    return next((name for name in names if name.lower().startswith(folder)), path.name)

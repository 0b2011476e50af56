"""Evaluate an architecture: train its network from scratch with one or several seeds, and test it.

    python examples/evaluate.py --genotype DARTS_V2                    # a minute, on the digits
    python examples/evaluate.py --genotype runs/darts-digits-seed0     # what a search has found
    python examples/evaluate.py --genotype PDARTS --preset paper --dataset cifar10 \
        --data-root data --eval-seeds 3 --device cuda
    python examples/evaluate.py --genotype PC_DARTS_image --preset paper --dataset imagenet \
        --data-root imagenet --workers 8 --device cuda

--genotype is the name of a published architecture, a JSON file as searches write it, the folder of
a search, or a file with a genotype as the authors' repositories print it. Cells may be evaluated on
another data set than the one they were found on. With --resume an interrupted run goes on in its
folder, given the same settings.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlopt
from mlopt.nas import GENOTYPES, Genotype, draw, load_genotype
from mlopt.report import RunFolder, write_report
from support.data import load_data
from support.pipeline import ending, open_run
from support.results import (
    baseline_rows,
    begin_services,
    log_report,
    logging_to,
    over_seeds,
    result_table,
    save_result,
)
from support.retraining import began, check, retrain_seeds, size
from support.settings import Settings, check_device, parse


def run(genotype: str, s: Settings, resume: bool = False) -> list[dict[str, Any]]:
    """Evaluate into a run folder.

    Args:
        genotype: a published name, a file, or the folder of a search.
        s: the settings.
        resume: whether to go on with an interrupted run.

    Returns:
        The rows of the result: the mean over seeds, baselines, and each seed if there are several.

    Raises:
        MloptError: the genotype, the settings, the data or the folder cannot be used.
    """
    check_device(s.device)
    found, name = load_genotype(genotype), label(genotype)
    data = load_data(s)
    check(data, s)
    measured = size(found, data, s)
    services = begin_services(s, s.run_path(f"evaluate-{name}"))
    with open_folder(name, found, s, resume) as folder, logging_to(folder, s, services):
        draw(found, folder.path("cells.svg"), title=name)
        since = began(folder)
        results = retrain_seeds(found, data, folder, s, "", since)
        mean = {
            "name": name,
            **search_cost(genotype),
            **measured,
            **over_seeds(results, data, s),
            "retrain_seconds": time.perf_counter() - since,
        }
        seeds = [
            {"name": f"{name}, seed {result['seed']}", **over_seeds([result], data, s)}
            for result in (results if len(results) > 1 else [])
        ]
        rows = [mean, *baseline_rows(data), *seeds]
        save_result(folder, data, rows)
        report = write_report(folder)
        log_report(folder, rows, report)
        print(f"report: {report}")
    return rows


def label(genotype: str) -> str:
    """What the result calls an architecture: its published name, or that of its search."""
    path = Path(genotype)
    if genotype in GENOTYPES:
        return genotype
    return path.resolve().parent.name if path.name == "genotype.json" else path.resolve().stem


def open_folder(name: str, genotype: Genotype, s: Settings, resume: bool) -> RunFolder:
    """The run folder, new, or the one to go on with.

    Raises:
        SettingsError: the folder is there, but not asked for, or it is that of another run.
    """
    path = s.run_path(f"evaluate-{name}")
    settings = {"example": "evaluate", "genotype": name, **dataclasses.asdict(s)}
    folder = open_run(path, settings, resume=resume, overwrite=s.overwrite, refresh=write_report)
    if folder.read_json("genotype.json") is None:
        folder.save("genotype.json", genotype.to_json() + "\n")
    if load_genotype(folder.root) != genotype:
        raise mlopt.SettingsError(
            f"--resume: the run in {path} is that of another genotype. Give another --run-folder."
        )
    return folder


def search_cost(genotype: str) -> dict[str, Any]:
    """What the search took, if `genotype` lies in the folder of one that says so."""
    path = Path(genotype)
    root = path if path.is_dir() else path.parent
    if genotype in GENOTYPES or not (root / "settings.json").is_file():
        return {}
    folder = RunFolder.open(root)
    result, settings = folder.read_json("result.json"), folder.read_json("settings.json")
    row = result["rows"][0] if result else {}
    if row.get("search_seconds") is None:
        return {}
    found = {name: row[name] for name in ("search_seconds", "search_ranks") if name in row}
    return {**found, "search_device": settings.get("device", "cpu")}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--genotype", default="")
    parser.add_argument("--resume", action="store_true")
    own, others = parser.parse_known_args(arguments)
    with ending():
        s = parse(__doc__, others, example="evaluate")
        if not own.genotype:
            raise mlopt.SettingsError(
                "--genotype is missing: give a file, the folder of a search, or one of "
                f"{', '.join(GENOTYPES)}."
            )
        rows = run(own.genotype, s, own.resume)
    print(result_table(rows))


if __name__ == "__main__":
    main()

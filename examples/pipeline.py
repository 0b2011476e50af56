"""What the NAS examples share: search, derive, retrain from scratch, test, report."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

import mlopt
from mlopt.data import ImageData
from mlopt.nas import Genotype, draw
from mlopt.report import RunFolder, write_report
from retraining import (
    BASELINES,
    baselines,
    check,
    result_table,
    retrain_and_test,
    save_result,
)
from support.data import load_data, search_loaders
from support.networks import TITLES
from support.search import Scheme, Search, pair_agreement, run_stages
from support.settings import Settings, parse


def main(example: str, scheme: Scheme, description: str | None) -> None:
    """The command line of an example.

    Args:
        example: its name, of the run folder and of its table in the presets.
        scheme: makes the search.
        description: the help text.
    """
    try:
        s = parse(description, example=example)
        rows = (run_beside_base if s.beside_plain else run)(example, scheme, s)
    except mlopt.MloptError as error:
        sys.exit(f"error: {error}")
    print(result_table(rows))


def run(example: str, scheme: Scheme, s: Settings) -> list[dict[str, Any]]:
    """One whole run into its folder: search through all stages, derive, retrain, test, report.

    Args:
        example: its name.
        scheme: makes the search.
        s: the settings; `s.run_path(example)` is the folder, which afterwards has result.json.

    Returns:
        The rows of the result: the run, further learners, logistic regression, chance.

    Raises:
        MloptError: the settings, the data or the folder cannot be used; no folder is made then.
    """
    if scheme.of(s) is not scheme:
        print(f"{scheme.title} with one learner: nobody teaches it, so this is the plain search.")
        scheme = scheme.of(s)
    data = load_data(s)
    check(data, s)
    loaders = search_loaders(data, s, plain=scheme.plain, unlabeled=scheme.unlabeled)
    torch.manual_seed(s.seed)  # of the initial weights; the engine has generators of its own
    search = scheme(data, *loaders, s)
    with RunFolder.create(
        s.run_path(example), {"example": example, **dataclasses.asdict(s)}, overwrite=s.overwrite
    ) as folder:
        search = run_stages(scheme, search, loaders, folder, data, s)
        title = title_of(scheme, s)
        genotypes = derive_all(search, folder, f"{title} on {data.name}")
        tested = retrain_learners(search, genotypes, data, folder, s)
        row = {
            "name": title,
            "space": s.space,
            "search_seconds": search.spent.seconds,
            "passes": search.spent.passes,
            "evaluations": search.engine.plan().evaluations,
            **tested[search.best],
        }
        others = [
            {"name": f"{title} learner {k + 1}", **result}
            for k, result in tested.items()
            if k != search.best
        ]
        rows = [row, *others, *baselines(data)]
        save_learners(search, genotypes, tested, folder)
        save_result(folder, example, data, rows, notes(search))
        print(f"report: {write_report(folder)}")
    return rows


def run_beside_base(example: str, scheme: Scheme, s: Settings) -> list[dict[str, Any]]:
    """Run a scheme, then the plain search in the same space, into a folder inside the other's.

    Args:
        example: the scheme's name.
        scheme: makes the search.
        s: the settings of both.

    Returns:
        The rows of the result: the run, further learners, the plain search, the baselines. The
        scheme's report has them all.

    Raises:
        MloptError: as `run`.
    """
    rows = run(example, scheme, s)
    if scheme.base is None or scheme.of(s) is scheme.base:
        return rows
    root = s.run_path(example)
    print(f"\nplain search, same settings and seed, into {root / 'darts'}")
    plain = run("darts", scheme.base, dataclasses.replace(s, run_folder=str(root / "darts")))
    last = [row for row in rows if row["name"] in BASELINES]
    rows = [*rows[: len(rows) - len(last)], plain[0], *last]
    with RunFolder.open(root) as folder:
        result = folder.read_json("result.json")
        note = "The plain search has the images that are unlabeled here with their labels."
        result["notes"] += [note] if scheme.unlabeled else []
        folder.save_json("result.json", {**result, "rows": rows})
        print(f"report of both: {write_report(folder)}")
    return rows


def title_of(scheme: Scheme, s: Settings) -> str:
    """What results call a scheme in a space: "LFM-CW", "LFM-CW on P-DARTS", "P-DARTS"."""
    space = TITLES[s.space]
    if not scheme.title:
        return space
    return scheme.title if s.space == "darts" else f"{scheme.title} on {space}"


def derive_all(search: Search, folder: RunFolder, title: str) -> list[Genotype]:
    """What each learner found, printed, drawn and written; genotype.json is the best learner's."""
    genotypes = [x.space.derive(x.architecture) for x in search.learners]
    for learner, genotype in zip(search.learners, genotypes, strict=True):
        spoken = learner.title
        print(f"\n{spoken}\n{genotype}\n" if spoken else f"\n{genotype}\n")
        suffix = f"_{learner.name}" if learner.name else ""
        picture = folder.path(f"cells{suffix}.svg")
        draw(genotype, picture, title=f"{title}, {spoken}" if spoken else title)
        folder.path(f"genotype{suffix}.json").write_text(genotype.to_json() + "\n")
    best = genotypes[search.best]
    folder.path("genotype.json").write_text(best.to_json() + "\n", encoding="utf-8")
    return genotypes


def retrain_learners(
    search: Search, genotypes: Sequence[Genotype], data: ImageData, folder: RunFolder, s: Settings
) -> dict[int, dict[str, Any]]:
    """Results of the best learner, and of the others if that was asked for, by their place."""
    began = time.perf_counter()
    chosen = range(len(genotypes)) if s.retrain == "all" else [search.best]
    return {
        k: retrain_and_test(genotypes[k], data, folder, s, search.learners[k].name, began)
        for k in chosen
    }


def save_learners(
    search: Search,
    genotypes: Sequence[Genotype],
    tested: dict[int, dict[str, Any]],
    folder: RunFolder,
) -> None:
    """Write learners.json, if there are several, the best one first."""
    learners = search.learners
    if len(learners) == 1:
        return
    metrics = ("validation/loss", "validation/error", "entropy/normal", "entropy/reduce")
    rows = [
        {
            "name": x.title,
            **{name: search.validation[x.key(name)] for name in metrics},
            **tested.get(k, {}),
            "genotype": str(genotypes[k]),
        }
        for k, x in enumerate(learners)
    ]
    rows.insert(0, rows.pop(search.best))
    pairs = [
        {"names": [x.title for x in pair], **pair_agreement(*pair)}
        for pair in itertools.combinations(learners, 2)
    ]
    folder.save_json("learners.json", {"learners": rows, "pairs": pairs})


def notes(search: Search) -> list[str]:
    """What a reader of the result must know of the search."""
    found = list(search.spent.notes)
    if len(search.learners) > 1:
        found.append(
            f"Of {len(search.learners)} learners, the result is that of learner {search.best + 1}, "
            "whose validation loss was the lowest at the end of the search."
        )
    return found

"""One whole run: search, derive, retrain from scratch, test, report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mlopt.data import ImageData
from mlopt.report import RunFolder, write_report

from .. import ranks
from ..data import load_data, search_loaders
from ..networks import TITLES
from ..results import (
    BASELINES,
    Row,
    baseline_rows,
    begin_services,
    log_report,
    logging_to,
    save_result,
)
from ..retraining import check
from ..search import Scheme, Search, run_stages
from ..settings import Settings, check_device
from .folders import open_run, remove_checkpoints
from .learners import derive_all, notes, retrain_learners, save_learners


def run(
    example: str, scheme: Scheme, s: Settings, *, resume: bool = False, more: bool = False
) -> list[Row]:
    """One whole run into its folder: search through all stages, derive, retrain, test, report.

    Several ranks search together. What follows is the first one's, without the others.

    Args:
        example: its name.
        scheme: makes the search.
        s: the settings; `s.run_path(example)` is the folder, which afterwards has result.json.
        resume: whether to go on with a run that was interrupted, wherever it was.
        more: whether another run follows, for which the other ranks wait; else they end.

    Returns:
        The rows of the result: the run, further learners, logistic regression, chance.

    Raises:
        MloptError: the settings, the data or the folder cannot be used; no folder is made then.
    """
    if scheme.of(s) is not scheme:
        print(f"{scheme.title} with one learner: nobody teaches it, so this is the plain search.")
        scheme = scheme.of(s)
    with ranks.together():
        check_device(s.device)
        data = load_data(s)
        check(data, s)
        loaders = search_loaders(data, s, plain=scheme.plain, unlabeled=scheme.unlabeled)
        torch.manual_seed(s.seed)  # of the initial weights; the engine has generators of its own
        search = scheme(data, *loaders, s)
    services = ranks.first(lambda: begin_services(s, s.run_path(example)), others=list)
    several = {"ranks": ranks.count()} if not ranks.alone() else {}
    with (
        _threads(s.threads),
        open_run(
            s.run_path(example),
            {"example": example, **dataclasses.asdict(s), **several},
            resume=resume,
            overwrite=s.overwrite,
            refresh=write_report,
        ) as folder,
        logging_to(folder, s, services),
    ):
        result = ranks.first(lambda: folder.read_json("result.json"))
        taken = dict[str, Any]()
        if result is None:
            search = run_stages(scheme, search, loaders, folder, data, s)
            taken = {
                "search_seconds": search.spent.seconds,
                "passes": search.spent.passes,
                "evaluations": search.engine.plan().evaluations,
                **({"search_ranks": ranks.count()} if not ranks.alone() else {}),
            }

        def rest() -> list[Row]:
            if result is None:
                rows = _test(search, taken, title_of(scheme, s), data, folder, s)
            else:  # it was interrupted at its very end
                rows = result["rows"]
            remove_checkpoints(folder)
            report = write_report(folder)
            log_report(folder, rows, report)
            print(f"report: {report}")
            return rows

        if more:
            return ranks.first(rest)
        ranks.leave()
        return rest()


def _test(
    search: Search, taken: Row, title: str, data: ImageData, folder: RunFolder, s: Settings
) -> list[Row]:
    """What follows a search, which has taken that much, and its result.json."""
    genotypes = derive_all(search, folder, f"{title} on {data.name}")
    tested = retrain_learners(search, genotypes, data, folder, s)
    row = {"name": title, "space": s.space, **taken, **tested[search.best]}
    others = [
        {"name": f"{title} learner {k + 1}", **result}
        for k, result in tested.items()
        if k != search.best
    ]
    rows = [row, *others, *baseline_rows(data)]
    save_learners(search, genotypes, tested, folder)
    said = notes(search)
    if "search_ranks" in taken:
        said.append(
            f"{taken['search_ranks']} processes have searched together, each with its share of "
            "every batch; the network passes are those of one."
        )
    save_result(folder, data, rows, said)
    return rows


def run_beside_base(
    example: str, scheme: Scheme, s: Settings, *, resume: bool = False
) -> list[Row]:
    """Run a scheme, then the plain search in the same space, into a folder inside the other's.

    Args:
        example: the scheme's name.
        scheme: makes the search.
        s: the settings of both.
        resume: as of `run`, for both.

    Returns:
        The rows of the result: the run, further learners, the plain search, the baselines. The
        scheme's report has them all.

    Raises:
        MloptError: as `run`.
    """
    more = scheme.base is not None and scheme.of(s) is not scheme.base
    rows = run(example, scheme, s, resume=resume, more=more)
    if scheme.base is None or not more:
        return rows
    root = s.run_path(example)
    print(f"\nplain search, same settings and seed, into {root / 'darts'}")
    inner = dataclasses.replace(s, run_folder=str(root / "darts"))
    plain = run("darts", scheme.base, inner, resume=resume)
    last = [row for row in rows if row["name"] in BASELINES]
    own = [row for row in rows if row["name"] not in (*BASELINES, plain[0]["name"])]
    rows = [*own, plain[0], *last]
    with RunFolder.open(root) as folder:
        result = folder.read_json("result.json")
        note = "The plain search has the images that are unlabeled here with their labels."
        if scheme.unlabeled and note not in result["notes"]:
            result["notes"].append(note)
        folder.save_json("result.json", {**result, "rows": rows})
        print(f"report of both: {write_report(folder)}")
    return rows


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """So many threads for a while; 0 for those that there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def title_of(scheme: Scheme, s: Settings) -> str:
    """What results call a scheme in a space: "LFM-CW", "LFM-CW on P-DARTS", "P-DARTS"."""
    space = TITLES[s.space]
    if not scheme.title:
        return space
    return scheme.title if s.space == "darts" else f"{scheme.title} on {space}"

"""What the NAS examples share: search, derive, retrain from scratch, test, report."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from loaders import load_data, search_loaders
from retraining import baselines, result_table, retrain_and_test, save_result
from searching import Search, pair_agreement, run_search
from settings import Settings, parse

import mlopt
from mlopt.data import ImageData
from mlopt.nas import Genotype, derive, draw
from mlopt.report import RunFolder, write_report

#: Makes a search from the data, the loaders of `search_loaders`, and the settings.
Scheme = Callable[..., Search]

TITLES = {"lfm_cw_darts": "LFM-CW", "darts": "DARTS", "sgl_darts": "SGL"}


def sgd(variable: mlopt.Variable, s: Settings) -> dict[str, Any]:
    """Optimizer and scheduler of a network's weights: SGD, cosine over the search."""
    optimizer = torch.optim.SGD(
        variable.parameters(), s.lr, momentum=s.momentum, weight_decay=s.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, s.epochs + s.pretrain, eta_min=min(s.min_lr, s.lr)
    )
    return {"optimizer": optimizer, "scheduler": scheduler}


def adam(variable: mlopt.Variable | Sequence[mlopt.Variable], s: Settings) -> torch.optim.Optimizer:
    """Optimizer of an architecture, or of several."""
    variables = [variable] if isinstance(variable, mlopt.Variable) else variable
    parameters = [p for v in variables for p in v.parameters()]
    return torch.optim.Adam(
        parameters, s.arch_lr, betas=(0.5, 0.999), weight_decay=s.arch_weight_decay
    )


def hypergradient_method(s: Settings, lr: float | None = None) -> mlopt.AbstractHypergradient:
    """First order, or one step ahead: by the optimizer, or the plain gradient step of this lr."""
    if s.order == "first":
        return mlopt.Frozen()
    product: mlopt.AbstractProduct = {
        "central": mlopt.Central(s.radius),
        "one-sided": mlopt.OneSided(s.radius),
        "exact": mlopt.Exact(),
    }[s.product]
    return mlopt.OneStep(lr=lr, product=product)


def main(
    example: str,
    scheme: Scheme,
    description: str | None,
    plain: bool = False,
    unlabeled: bool = False,
) -> None:
    """The command line of an example.

    Args:
        example: its name, of the run folder and of its table in the presets.
        scheme: makes the search.
        description: the help text.
        plain: whether training batches carry the images without augmentation too.
        unlabeled: whether the search needs unlabeled images.
    """
    try:
        s = parse(description, example=example)
        rows = run(example, scheme, s, plain=plain, unlabeled=unlabeled)
    except mlopt.MloptError as error:
        sys.exit(f"error: {error}")
    print(result_table(rows))


def run(
    example: str, scheme: Scheme, s: Settings, *, plain: bool = False, unlabeled: bool = False
) -> list[dict[str, Any]]:
    """One whole run into its folder.

    Args:
        example: its name.
        scheme: makes the search.
        s: the settings.
        plain: whether training batches carry the images without augmentation too.
        unlabeled: whether the search needs unlabeled images.

    Returns:
        The rows of the result: the run, further learners, logistic regression, chance.
    """
    data = load_data(s)
    loaders = search_loaders(data, s, plain=plain, unlabeled=unlabeled)
    with RunFolder.create(
        s.run_path(example), {"example": example, **dataclasses.asdict(s)}, overwrite=s.overwrite
    ) as folder:
        torch.manual_seed(s.seed)  # of the initial weights; the engine has generators of its own
        search = scheme(data, *loaders, s)
        seconds = run_search(search, loaders[1], folder, data, s)
        title = TITLES.get(example, example)
        genotypes = derive_all(search, folder, f"{example} on {data.name}")
        tested = retrain_learners(search, genotypes, data, folder, s)
        row = {
            "name": title,
            "search_seconds": seconds,
            "passes": search.passes,
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


def derive_all(search: Search, folder: RunFolder, title: str) -> list[Genotype]:
    """What each learner found, printed, drawn and written; genotype.json is the best learner's."""
    genotypes = [derive(x.architecture) for x in search.learners]
    for learner, genotype in zip(search.learners, genotypes, strict=True):
        spoken = learner.name.replace("_", " ")
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
            "name": x.name.replace("_", " "),
            **{name: search.validation[x.key(name)] for name in metrics},
            **tested.get(k, {}),
            "genotype": str(genotypes[k]),
        }
        for k, x in enumerate(learners)
    ]
    rows.insert(0, rows.pop(search.best))
    pairs = [
        {"names": [x.name.replace("_", " ") for x in pair], **pair_agreement(*pair)}
        for pair in itertools.combinations(learners, 2)
    ]
    folder.save_json("learners.json", {"learners": rows, "pairs": pairs})


def notes(search: Search) -> list[str]:
    """What the result of several learners is."""
    if len(search.learners) == 1:
        return []
    return [
        f"Of {len(search.learners)} learners, the result is that of learner {search.best + 1}, "
        "whose validation loss was the lowest at the end of the search."
    ]

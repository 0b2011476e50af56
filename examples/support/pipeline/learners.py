"""What the learners of a search found: derived, retrained, and written into the run folder."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from mlopt.data import ImageData
from mlopt.nas import Genotype, draw
from mlopt.report import RunFolder

from ..results import Row
from ..retraining import began, retrain_and_test
from ..search import Search, pair_agreement
from ..settings import Settings


def derive_all(search: Search, folder: RunFolder, title: str) -> list[Genotype]:
    """What each learner found, printed, drawn and written; genotype.json is the best learner's."""
    genotypes = [x.space.derive(x.architecture) for x in search.learners]
    for learner, genotype in zip(search.learners, genotypes, strict=True):
        spoken = learner.title
        print(f"\n{spoken}\n{genotype}\n" if spoken else f"\n{genotype}\n")
        suffix = f"_{learner.name}" if learner.name else ""
        picture = folder.path(f"cells{suffix}.svg")
        draw(genotype, picture, title=f"{title}, {spoken}" if spoken else title)
        folder.save(f"genotype{suffix}.json", genotype.to_json() + "\n")
    best = genotypes[search.best]
    folder.save("genotype.json", best.to_json() + "\n")
    return genotypes


def retrain_learners(
    search: Search, genotypes: Sequence[Genotype], data: ImageData, folder: RunFolder, s: Settings
) -> dict[int, Row]:
    """Results of the best learner, and of the others if that was asked for, by their place."""
    chosen = range(len(genotypes)) if s.retrain == "all" else [search.best]
    since = began(folder)
    return {
        k: retrain_and_test(genotypes[k], data, folder, s, search.learners[k].name, since)
        for k in chosen
    }


def save_learners(
    search: Search,
    genotypes: Sequence[Genotype],
    tested: dict[int, Row],
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

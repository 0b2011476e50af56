"""What becomes of what the learners of a search found."""

import json
import math

import pytest
from examples.small_runs import small_sgl

import mlopt
import sgl_darts
from support import pipeline
from support.data import load_data, search_loaders
from support.search import validation


@pytest.mark.parametrize(
    ("losses", "best"),
    [((0.3, 0.1, 0.2), 1), ((math.nan, 0.5, 0.4), 2), ((0.2, 0.2, 0.3), 0)],
)
def test_the_best_learner_is_that_of_the_lowest_validation_loss(tmp_path, losses, best):
    s = small_sgl(tmp_path, "--learners", "3")
    data = load_data(s)
    loaders = search_loaders(data, s, unlabeled=True)
    search = sgl_darts.scheme(data, *loaders, s)
    search.validation = validation(search.learners, loaders[1], "cpu")
    for k, loss in enumerate(losses, start=1):
        search.validation[f"learner_{k}/validation/loss"] = loss
    assert search.best == best
    with mlopt.report.RunFolder.create(tmp_path / "run", {}) as folder:
        genotypes = pipeline.derive_all(search, folder, "a group")
        pipeline.save_learners(search, genotypes, {best: {"test_error": 7.0}}, folder)
        chosen, *others = folder.read_json("learners.json")["learners"]
        assert folder.read_json("genotype.json") == json.loads(genotypes[best].to_json())
    assert chosen["name"] == f"learner {best + 1}"
    assert chosen["genotype"] == str(genotypes[best])
    assert chosen["test_error"] == 7.0
    assert [row["name"] for row in others] == [f"learner {k + 1}" for k in range(3) if k != best]
    assert not any("test_error" in row for row in others)

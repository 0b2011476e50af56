"""Training curves: what a chart shows, and what is said of it."""

from __future__ import annotations

import math
import re
from pathlib import Path

from mlopt.report import RunFolder, write_report
from mlopt.report.run_data import RunData

WHY = "Grey dots: the network that is measured was not trained yet, so it guesses."


def run_with(root: Path, *trained: bool | None, prefix: str = "") -> RunFolder:
    with RunFolder.create(root, {}) as folder:
        for epoch, known in enumerate(trained, start=1):
            said = {} if known is None else {f"{prefix}trained": known}
            metrics = {f"{prefix}validation/error": 90.0 if not known else 20.0}
            metrics |= {f"{prefix}gap": 2.0, f"{prefix}entropy/normal": 2.0 - 0.1 * epoch}
            folder.log("search-epoch", epoch=epoch, **metrics, **said)
    return folder


def test_a_flat_error_before_the_network_is_trained_is_explained(tmp_path: Path) -> None:
    folder = run_with(tmp_path / "run", False, False, True, True)
    page = write_report(folder).read_text(encoding="utf-8")
    cards = dict(re.findall(r"<figure><h3>(.*?)</h3>(.*?)</figure>", page, re.S))
    assert {title for title, content in cards.items() if WHY in content} == {
        "validation · error", "gap"
    }  # fmt: skip
    run = RunData.read(folder.root, "run")
    assert run.line("search-epoch", "validation/error").until == 2
    assert run.line("search-epoch", "entropy/normal").until == -math.inf


def test_of_learners_each_has_its_own(tmp_path: Path) -> None:
    folder = run_with(tmp_path / "run", False, True, prefix="learner_1/")
    run = RunData.read(folder.root, "run")
    assert run.line("search-epoch", "learner_1/validation/error").until == 1
    assert run.line("search-epoch", "validation/error").until == -math.inf


def test_nothing_is_said_of_a_network_that_is_trained_from_the_start(tmp_path: Path) -> None:
    for name, trained in (("known", True), ("unknown", None)):
        folder = run_with(tmp_path / name, trained, trained)
        assert WHY not in write_report(folder).read_text(encoding="utf-8")


def test_problems_of_the_same_learning_rate_have_one_line(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", {}) as folder:
        for step in range(1, 5):
            rates = {"a/lr": 0.1 / step, "b/lr": 0.1 / step, "c/lr": 0.3, "c/lr 2": 0.03}
            folder.log("search", step=step, **rates)
    page = write_report(folder).read_text(encoding="utf-8")
    assert page.count("<figure>") == 1
    assert "<h3>a, b; c; c 2</h3>" in page
    assert 'aria-label="learning rate over search epoch; a, b; c; c 2"' in page


def test_learners_of_the_same_rates_are_one_name(tmp_path: Path) -> None:
    for name, second in (("same", 0.1), ("other", 0.2)):
        with RunFolder.create(tmp_path / name, {}) as folder:
            for step in range(1, 3):
                rates = {"learner_1/a/lr": 0.1 / step, "learner_2/a/lr": second / step, "b/lr": 0.3}
                folder.log("search", step=step, **rates)
        page = write_report(folder).read_text(encoding="utf-8")
        found = {"same": "a; b", "other": "learner_1/a; learner_2/a; b"}
        assert f"<h3>{found[name]}</h3>" in page


def test_dots_are_explained_only_where_there_are_some(tmp_path: Path) -> None:
    """The gap begins with the training of what is validated: none of it is dots."""
    with RunFolder.create(tmp_path / "run", {}) as folder:
        for epoch in range(1, 5):
            later = {"gap": 1.0} if epoch > 2 else {}
            metrics = {"validation/error": 90.0, "trained": epoch > 2, **later}
            folder.log("search-epoch", epoch=epoch, **metrics)
    assert write_report(folder).read_text(encoding="utf-8").count(WHY) == 1

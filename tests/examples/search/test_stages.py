"""A search through the stages of its space: who is told what, and what is kept."""

from __future__ import annotations

import copy
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import exact, near, rounding
from examples.small_runs import ready, search_epochs

import darts
import lfm_cw_darts
import mlopt
import sgl_darts
from mlopt.generators import SharedDiscriminator
from mlopt.nas import Supernet
from mlopt.report import RunFolder, phases
from mlopt.report.run_data import RunData
from support.search import run_search, run_stages, stages
from support.search.count import Count
from support.search.log import Log


def test_all_supernets_are_told_the_epochs_of_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the trunk of the discriminator; the epochs before the search are as its first."""
    told: dict[int, list[tuple[int, int, int]]] = {}
    original = Supernet.begin_epoch

    def begin_epoch(self: Supernet, epoch: int, epochs: int, warmup: int = 0) -> None:
        told.setdefault(id(self), []).append((epoch, epochs, warmup))
        original(self, epoch, epochs, warmup)

    monkeypatch.setattr(Supernet, "begin_epoch", begin_epoch)
    search, loaders, data, s = ready(
        tmp_path, lfm_cw_darts, "--epochs", "3", "--warmup", "2", "--pretrain", "1",
        "--generator-epochs", "1", "--space", "darts-minus",
    )  # fmt: skip
    with RunFolder.create(tmp_path / "run", {}) as folder:
        run_search(search, loaders, folder, data, s)
    w1, w2, _, h = search.networks
    assert isinstance(h, SharedDiscriminator)
    expected = [(epoch, 3, 2) for epoch in (0, 0, 0, 1, 2)]
    assert told == {id(w): expected for w in (w1, w2, h.trunk)}
    betas = [float(w.scheduled) for w in (w1, w2, h.trunk)]  # type: ignore[arg-type]
    exact(betas, [1 / 3] * 3, rounding(20, dtype=torch.float32))


def test_stages_follow_each_other_with_new_networks(tmp_path: Path) -> None:
    search, loaders, data, s = ready(
        tmp_path, darts, "--space", "p-darts", "--cells", "2", "--add-cells", "0", "1", "2"
    )
    with RunFolder.create(tmp_path / "run", {}) as folder:
        last = run_stages(darts.scheme, search, loaders, folder, data, s)
        logged = search_epochs(folder)
    assert [row["stage"] for row in logged] == [1, 2, 3]
    assert [row["epoch"] for row in logged] == [1, 2, 3]
    assert [row["step"] for row in logged] == [1, 2, 3]
    assert last.stage == (3, 3)
    assert last.learners[0].classifier is not search.learners[0].classifier
    assert (len(search.learners[0].classifier.cells), len(last.learners[0].classifier.cells)) == (
        2,
        4,
    )
    assert last.spent.passes >= 3 * 2  # in each stage a step of two evaluations
    assert (last.spent.steps, last.spent.epochs) == (3, 3)
    # Only the last stage derives a genotype, so only it has a share of skips.
    assert ["skips/normal" in row for row in logged] == [False, False, True]


def test_learners_of_one_group_keep_operations_of_their_own(tmp_path: Path) -> None:
    """After stage 1, what one learner keeps is what the other's opposite preference drops."""
    search, loaders, data, s = ready(
        tmp_path, sgl_darts, "--space", "p-darts", "--drop", "4", "3", "--add-cells", "0", "1",
        "--skip-dropout", "0.1", "0.1",
    )  # fmt: skip
    with torch.no_grad():
        for sign, learner in zip((1.0, -1.0), search.learners, strict=True):
            for alpha in (learner.architecture.normal, learner.architecture.reduce):
                alpha.copy_(sign * torch.arange(8.0).expand_as(alpha))
    first, second = search.following()
    for one, other in zip(first.operations, second.operations, strict=True):
        assert all(set(a).isdisjoint(b) for a, b in zip(one, other, strict=True))
    following = sgl_darts.scheme(data, *loaders, s, spaces=[first, second])
    assert [x.space for x in following.learners] == [first, second]
    following.engine.step()
    genotypes = [x.genotype() for x in following.learners]
    assert genotypes[0] != genotypes[1]


def test_several_spaces_are_asked_for_only_if_several_learn() -> None:
    assert [example.scheme.group for example in (darts, lfm_cw_darts, sgl_darts)] == [
        False,
        False,
        True,
    ]


def test_the_log_has_the_plan_of_each_part_of_a_search_and_what_its_steps_took(
    tmp_path: Path,
) -> None:
    """The generator alone, then with the first classifier, then all; a report tells them apart."""
    search, loaders, data, s = ready(
        tmp_path, lfm_cw_darts, "--generator-epochs", "1", "--pretrain", "1", "--batch-size", "16"
    )
    planned, epochs = [], []

    class Plans(mlopt.Callback):
        def on_step(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
            epochs.append(engine.epoch)

        def on_between(self, engine: mlopt.Engine) -> None:
            planned.append((engine.plan().evaluations, engine.plan().backwards))

    search.callbacks = [Plans()]
    with RunFolder.create(tmp_path / "run", {}) as folder:
        first = search.engine.plan()
        run_search(search, loaders, folder, data, s)
        rows = folder.metrics()
    plans = [row for row in rows if row["phase"] == "plan"]
    found = [(row["epoch"], row["evaluations"], row["backwards"]) for row in plans]
    ends = [epochs.index(1), epochs.index(2)]
    later = [(epoch, *planned[end]) for epoch, end in enumerate(ends, start=1)]
    assert found == [(0, first.evaluations, first.backwards), *later]
    steps = [row for row in rows if row["phase"] == "search"]
    rates = {key: value for key, value in steps[-1].items() if "/lr" in key}
    assert rates.keys() == {f"{problem.name}/lr" for problem in search.engine.graph.problems}
    assert (rates["stage3/lr"], rates["generator/lr"]) == (s.arch_lr, s.gan_min_lr)
    assert steps[0]["stage1/lr"] == s.lr
    assert all(row["seconds"] - row["between_seconds"] > 0 for row in steps)
    assert steps[-1]["between_seconds"] > 0  # the validations after the first epochs
    # Twice: a pass of the one classifier for each batch, and the generator's samples.
    assert steps[-1]["between_passes"] == 2 * (len(loaders[1]) + 1)
    parts = phases.parts(RunData.read(folder.root, "run"))
    assert [len(part.problems) for part in parts] == [2, 3, 5]
    assert [part.steps for part in parts] == [2, 2, 2]
    assert [part.plan for part in parts] == [(row[1], row[2]) for row in found]


@pytest.mark.parametrize("example", [lfm_cw_darts, sgl_darts], ids=["lfm-cw", "sgl"])
def test_the_log_says_when_the_network_that_is_validated_is_trained(
    tmp_path: Path, example: Any
) -> None:
    """LFM-CW judges by its second classifier, which waits for the generator and the first one."""
    more = ("--generator-epochs", "1") if example is lfm_cw_darts else ("--learners", "2")
    search, loaders, data, s = ready(tmp_path, example, "--pretrain", "1", *more)
    start = [copy.deepcopy(x.classifier.state_dict()) for x in search.learners]
    with RunFolder.create(tmp_path / "run", {}) as folder:
        moved = []

        class Look(mlopt.Callback):
            def on_validation(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
                now = [dict(x.classifier.named_parameters()) for x in search.learners]
                moved.append(
                    [
                        any(not torch.equal(a[k], p) for k, p in b.items())
                        for a, b in zip(start, now, strict=False)
                    ]
                )

        search.callbacks = [Look()]
        run_search(search, loaders, folder, data, s)
        rows = search_epochs(folder)
    said = [[row[x.key("trained")] for x in search.learners] for row in rows]
    assert said == moved
    assert [True] * len(search.learners) == said[-1]
    for learner in search.learners:
        table = learner.architecture.normal.detach().softmax(-1)
        logged = torch.tensor(rows[-1][learner.key("weights/normal")])
        near(logged, table, 1e-3, why="four digits are logged")
        assert rows[-1][learner.key("operations")] == list(learner.architecture.operations)
    assert (example is lfm_cw_darts) == (said[0] == [False])


def test_the_log_goes_on_from_what_it_knew(tmp_path: Path) -> None:
    """With a run that is resumed: the plan is not logged again, and who is trained stays known."""
    search, loaders, data, s = ready(tmp_path, darts)
    with RunFolder.create(tmp_path / "run", {}) as folder:
        run_search(search, loaders, folder, data, s)
        first = Log(search, folder, data, Count(search))
        first.planned, first.updated = {"evaluations": 2, "backwards": 3}, {"weights"}
        first.between = (1.5, 7)
        second = Log(search, folder, data, Count(search))
        second.load_state_dict(first.state_dict())
    assert (second.planned, second.updated) == (first.planned, first.updated)
    assert second.between == first.between
    assert search.spent.between[1] == len(loaders[1])  # the validation after the one epoch


def test_a_stage_has_the_workers_of_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, loaders, data, s = ready(
        tmp_path, darts, "--space", "p-darts", "--cells", "2", "--add-cells", "0", "1", "2",
        "--workers", "1",
    )  # fmt: skip
    there: list[int] = []

    def counted(*arguments: Any) -> None:
        there.append(len(multiprocessing.active_children()))
        run_search(*arguments)
        there.append(len(multiprocessing.active_children()))

    monkeypatch.setattr(stages, "run_search", counted)
    with RunFolder.create(tmp_path / "run", {}) as folder:
        run_stages(darts.scheme, search, loaders, folder, data, s)
    outside, running = there[0], there[1]
    assert running == outside + 2  # of the two parts
    assert there == [outside, running] * 3

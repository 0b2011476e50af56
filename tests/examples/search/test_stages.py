"""A search through the stages of its space: who is told what, what is kept, when it ends early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from image_files import write_imagenet

import darts
import lfm_cw_darts
import mlopt
import sgl_darts
from mlopt.generators import SharedDiscriminator
from mlopt.nas import Alarm, Supernet
from mlopt.report import RunFolder
from support import pipeline, settings
from support.data import load_data, search_loaders
from support.optimization import sgd
from support.search import alarms, run_search, run_stages

SMALL = [
    "--channels", "4", "--nodes", "1", "--cells", "2", "--epochs", "1", "--warmup", "0",
    "--generator-epochs", "0", "--generator-width", "2", "--noise", "4", "--batch-size", "32",
    "--train-images", "64", "--order", "first", "--eval-channels", "2", "--eval-cells", "1",
    "--eval-epochs", "1",
]  # fmt: skip


def ready(tmp_path: Path, example: Any, *more: str) -> tuple[Any, ...]:
    """The first stage of a search, and what it needs to run."""
    s = settings.parse(None, [*SMALL, "--run-folder", str(tmp_path / "run"), *more])
    data = load_data(s)
    scheme = example.scheme
    loaders = search_loaders(data, s, plain=scheme.plain, unlabeled=scheme.unlabeled)
    return scheme(data, *loaders, s), loaders, data, s


def rows(folder: RunFolder) -> list[dict[str, Any]]:
    return [row for row in folder.metrics() if row["phase"] == "search-epoch"]


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
    assert betas == pytest.approx([1 / 3] * 3)


def test_stages_follow_each_other_with_new_networks(tmp_path: Path) -> None:
    search, loaders, data, s = ready(
        tmp_path, darts, "--space", "p-darts", "--cells", "2", "--add-cells", "0", "1", "2"
    )
    with RunFolder.create(tmp_path / "run", {}) as folder:
        last = run_stages(darts.scheme, search, loaders, folder, data, s)
        logged = rows(folder)
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


def vector(search: Any) -> torch.Tensor:
    """What the only learner of a search has learned."""
    parameters = search.learners[0].architecture.parameters()
    return torch.nn.utils.parameters_to_vector(parameters).detach()


class Skips:
    """A monitor that finds a collapse at given looks, counted from 1."""

    def __init__(self, *looks: int) -> None:
        self.looks, self.seen = looks, 0

    def alarms(self, measures: Any) -> list[Alarm]:
        self.seen += 1
        return [Alarm("skips", "too many skips")] if self.seen in self.looks else []


@pytest.mark.parametrize(
    ("collapses", "stop", "epochs", "kept"),
    [((3,), True, 3, 2), ((1,), True, 1, 1), ((3,), False, 4, 4), ((), True, 4, 4)],
)
def test_a_collapse_may_end_a_search(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    collapses: tuple[int, ...],
    stop: bool,
    epochs: int,
    kept: int,
) -> None:
    """The architecture is then that of the last epoch without a collapse, if there was one."""
    monkeypatch.setattr(alarms, "MONITOR", Skips(*collapses))
    flag = ("--stop-on-collapse",) if stop else ()
    search, loaders, data, s = ready(tmp_path, darts, "--epochs", "4", "--arch-lr", "0.1", *flag)
    states: list[torch.Tensor] = []

    class Record(mlopt.Callback):
        def on_validation(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
            states.append(vector(search).clone())

    search.callbacks = [Record()]
    with RunFolder.create(tmp_path / "run", {}) as folder:
        run_search(search, loaders, folder, data, s)
        logged = rows(folder)
    assert len(logged) == len(states) == epochs
    assert torch.equal(vector(search), states[kept - 1])
    assert len({tuple(state.tolist()) for state in states}) == epochs
    assert search.validation["validation/loss"] == logged[kept - 1]["validation/loss"]
    expected = [["too many skips"] if k in collapses else [] for k in range(1, epochs + 1)]
    assert [row["alarms"] for row in logged] == expected
    if not (stop and collapses):
        assert search.spent.notes == []
        return
    (note,) = search.spent.notes
    assert note.startswith(f"The search ended early, after epoch {epochs}: too many skips.")
    assert note.endswith(f"epoch {kept}." if kept < epochs else "that of this epoch.")


def test_alarms_wait_for_the_first_update_of_the_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alarms, "MONITOR", Skips(1))
    search, loaders, data, s = ready(
        tmp_path, darts, "--pretrain", "1", "--epochs", "3", "--warmup", "1", "--stop-on-collapse"
    )
    with RunFolder.create(tmp_path / "run", {}) as folder:
        run_search(search, loaders, folder, data, s)
        assert [row["alarms"] for row in rows(folder)] == [[], [], ["too many skips"]]


def test_an_early_end_is_in_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarms, "MONITOR", Skips(2))
    s = settings.parse(
        None,
        [*SMALL, "--epochs", "3", "--stop-on-collapse", "--run-folder", str(tmp_path / "run")],
    )
    pipeline.run("darts", darts.scheme, s)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert any("ended early, after epoch 2" in note for note in result["notes"])
    text = (tmp_path / "run" / "report.html").read_text()
    assert "In epoch 2: too many skips." in text


def test_the_gap_is_that_of_the_two_halves(tmp_path: Path) -> None:
    search, loaders, data, s = ready(tmp_path, darts)
    with RunFolder.create(tmp_path / "run", {}) as folder:
        run_search(search, loaders, folder, data, s)
        (row,) = rows(folder)
    training = float(search.engine.clock.means["weights/loss"])
    assert row["gap"] == pytest.approx(row["validation/loss"] - training)


def test_learning_rates_of_the_weights() -> None:
    """PC-DARTS on ImageNet: five epochs up to 0.5, then the cosine of all fifty down to 0."""
    s = settings.parse(None, ["--epochs", "50", "--lr", "0.5", "--min-lr", "0", "--lr-warmup", "5"])
    w = mlopt.Variable(torch.nn.Linear(1, 1), "w")
    options = sgd(w, s)
    rates = []
    for _ in range(50):
        rates.append(options["optimizer"].param_groups[0]["lr"])
        options["optimizer"].step()
        options["scheduler"].step()
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert rates[25] == pytest.approx(0.25)
    assert rates[49] == pytest.approx(0.5 * 9.866e-4, rel=1e-3)
    s = settings.parse(None, ["--epochs", "50", "--lr", "0.025", "--min-lr", "0.001"])
    options = sgd(w, s)
    factor = options["scheduler"].lr_lambdas[0]
    expected = [0.025, 0.02497632, 0.0227082, 0.013, 0.0032918, 0.00102368]  # DARTS
    assert [0.025 * factor(e) for e in (0, 1, 10, 25, 40, 49)] == pytest.approx(expected, rel=1e-5)


def test_lfm_cw_searches_a_subset_of_imagenet(tmp_path: Path) -> None:
    """The PC-DARTS of Table 6 end to end, on files in ImageNet's form."""
    root = write_imagenet(tmp_path / "imagenet", classes=3, images=16)
    s = settings.parse(
        None,
        [
            *SMALL, "--space", "pc-darts", "--dataset", "imagenet", "--data-root", str(root),
            "--image-size", "32", "--generator-size", "8", "--batch-size", "4", "--train-images",
            "0", "--auxiliary", "0", "--run-folder", str(tmp_path / "run"),
        ],
    )  # fmt: skip
    found = pipeline.run("lfm_cw_darts", lfm_cw_darts.scheme, s)
    assert found[0]["name"] == "LFM-CW on PC-DARTS"
    assert 0 <= found[0]["test_error"] <= 100

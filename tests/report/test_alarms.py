"""The alarms in a report: said in plain words, and only where a search was watched."""

from __future__ import annotations

from pathlib import Path

from mlopt.report import RunFolder, write_report

SKIPS = "75% of what the normal cell keeps are skip connections"


def report(root: Path, epochs: list[dict[str, object]], beside: bool = False) -> str:
    folder = RunFolder.create(root, {})
    for epoch, row in enumerate(epochs, start=1):
        folder.log("search-epoch", epoch=epoch, **row)
    if beside:
        with RunFolder.create(root / "darts", {}) as other:
            other.log("search-epoch", epoch=1, alarms=[SKIPS], **{"skips/normal": 0.75})
    folder.close()
    return write_report(folder).read_text(encoding="utf-8")


def test_no_section_without_a_watched_search(tmp_path: Path) -> None:
    text = report(tmp_path / "run", [{"validation/loss": 0.5}])
    assert "Alarms of the search" not in text


def test_no_alarm_is_said_too(tmp_path: Path) -> None:
    text = report(tmp_path / "run", [{"alarms": [], "skips/normal": 0.25}] * 2)
    assert "No alarm was raised" in text
    assert "Skip connections in the normal cell" not in text


def test_an_alarm_is_one_sentence_for_all_its_epochs(tmp_path: Path) -> None:
    rows = [
        {"alarms": [], "skips/normal": 0.25},
        {
            "alarms": ["62% of what the normal cell keeps are skip connections"],
            "skips/normal": 0.62,
        },
        {"alarms": [SKIPS, "the validation loss is 1.20 above the training loss"]}
        | {"skips/normal": 0.75},
    ]
    text = report(tmp_path / "run", rows)
    assert f"<li>Epochs 2 to 3 (the last): {SKIPS} in epoch 3.</li>" in text
    assert (
        "<li>Epoch 3 (the last): the validation loss is 1.20 above the training loss.</li>" in text
    )
    assert "No alarm" not in text
    assert "Skip connections in the normal cell" in text


def test_an_alarm_that_went_is_not_said_to_have_stayed(tmp_path: Path) -> None:
    gap = "the validation loss is 1.20 above the training loss"
    told = [[SKIPS, gap], [gap], [SKIPS], []]
    text = report(tmp_path / "run", [{"alarms": found} for found in told])
    assert f"<li>2 epochs from 1 to 3, not after: {SKIPS} in epoch 3.</li>" in text
    assert f"<li>Epochs 1 to 2, not after: {gap} in epoch 2.</li>" in text


def test_only_skip_connections_are_called_a_collapse(tmp_path: Path) -> None:
    text = report(tmp_path / "run", [{"alarms": ["the validation loss is 2.0 above"]}])
    assert "The other alarms are no collapse" in text
    assert "Signs of a collapse" not in text


def test_runs_are_named_if_there_are_several(tmp_path: Path) -> None:
    text = report(tmp_path / "run", [{"alarms": [SKIPS], "skips/normal": 0.75}], beside=True)
    assert f"run: Epoch 1 (the last): {SKIPS}." in text
    assert f"darts: Epoch 1 (the last): {SKIPS}." in text


def test_learners_are_kept_apart(tmp_path: Path) -> None:
    text = report(tmp_path / "run", [{"alarms": [f"learner 1: {SKIPS}", f"learner 2: {SKIPS}"]}])
    assert f"Epoch 1 (the last): learner 1: {SKIPS}." in text
    assert f"Epoch 1 (the last): learner 2: {SKIPS}." in text


def test_what_is_no_list_of_alarms_is_left_out(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"alarms": "many"}, {"alarms": ["<b>bold</b>"]}]
    text = report(tmp_path / "run", rows)
    assert "Epoch 2 (the last): &lt;b&gt;bold&lt;/b&gt;." in text
    assert "many" not in text

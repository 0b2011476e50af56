"""`--loggers`: what else a run of an example writes, beside its metrics.jsonl."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from examples.small_runs import left_by_overwriting, small
from loggers.test_services import numbers_of, offline

import darts
import mlopt
from mlopt.report import RunFolder
from support import pipeline


def test_a_run_has_the_same_numbers_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    kept = offline(tmp_path, monkeypatch)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util
    from wandb.proto import wandb_internal_pb2 as wire

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    pipeline.run("darts", darts.scheme, small(tmp_path, "--loggers", "console,tensorboard,wandb"))
    folder = RunFolder.open(tmp_path / "run")
    rows = folder.metrics()
    said = capsys.readouterr().out
    assert f"search-epoch, step {rows[-2]['step']}, epoch 1: validation/error" in said
    assert f"retrain, epoch {rows[-1]['epoch']}: seconds" in said

    events = EventAccumulator(str(folder.root / "tensorboard"))
    events.Reload()
    tags = [t for t in events.Tags()["tensors"] if not t.endswith("/text_summary")]
    found = {
        tag: [
            (e.step, float(tensor_util.make_ndarray(e.tensor_proto))) for e in events.Tensors(tag)
        ]
        for tag in tags
    }
    placed = [
        {"step": row.get("step", row["epoch"])}
        | {f"{row['phase']}/{k}": v for k, v in row.items() if k not in ("phase", "step", "epoch")}
        for row in rows
    ]
    assert str(found) == str(numbers_of(placed))
    assert "result/text_summary" in events.Tags()["tensors"]

    records = [wire.Record.FromString(data) for data in kept()]
    steps = [
        {i.key or "/".join(i.nested_key): i.value_json for i in r.history.item}
        for r in records
        if r.WhichOneof("record_type") == "history"
    ]
    assert [r["search/seconds"] for r in steps if "search/seconds" in r] == [
        str(row["seconds"]) for row in rows if row["phase"] == "search"
    ]
    files = [r.artifact.type for r in records if r.WhichOneof("record_type") == "artifact"]
    assert "report" in files
    assert left_by_overwriting(folder.root) == set()


def test_a_logger_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(mlopt.SettingsError, match=r"loggers = 'wandb, tb': there is no 'tb'"):
        small(tmp_path, "--loggers", "wandb, tb")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(mlopt.SettingsError, match=f"pip install {name}"):
        pipeline.run("darts", darts.scheme, small(tmp_path, "--loggers", name))
    assert not [*tmp_path.iterdir()]


def test_tensorboard_shows_each_row_of_a_resumed_search_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was logged after the checkpoint from which it goes on is hidden there."""
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    options = ["--loggers", "tensorboard", "--epochs", "3", "--checkpoint-every", "2"]
    log, name = RunFolder.log, "search-epoch/validation/error"

    def falls(folder: RunFolder, phase: str, **row: Any) -> None:
        log(folder, phase, **row)
        if (phase, row["epoch"]) == ("search-epoch", 3):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log", falls)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run("darts", darts.scheme, small(tmp_path, *options))
    before = RunFolder.open(tmp_path / "run").metrics()
    pipeline.run("darts", darts.scheme, small(tmp_path, *options), resume=True)
    rows = RunFolder.open(tmp_path / "run").metrics()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    steps = [row["step"] for row in rows if row["phase"] == "search-epoch"]
    assert len(before) > 3
    assert len(steps) == 3
    assert [event.step for event in events.Tensors(name)] == steps

"""What a run gives its loggers is in the files of each, by the readers of their own packages."""

from __future__ import annotations

import io
import json
import math
import random
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import sgd
from torch import nn

import mlopt
from mlopt.loggers import JsonlLogger, TensorBoard, WandB, read_jsonl, to_json

WEIGHTS = torch.arange(6.0).reshape(2, 3)


def engine() -> mlopt.Engine:
    """Metrics of all kinds: numbers, special ones, lists, words, a dict, a matrix."""
    W = mlopt.Variable(nn.Parameter(torch.ones(2)), "w")

    @mlopt.problem(over=W, data=[torch.tensor(float(i)) for i in range(3)], optimizer=sgd(W))
    def fit(w, batch):
        loss = (w * batch).square().sum()
        metrics = {
            "batch": batch,
            "special": {"nan": math.nan, "inf": math.inf},
            "list": [0.5, loss],
            "word": "word",
            "complex": 1 + 2j,
            "weights": WEIGHTS,
        }
        return loss, metrics

    return mlopt.Engine([fit])


def run(*loggers: Any) -> None:
    test = {"accuracy": 0.1, "step": 7, "words": ["a", "b"]}
    options = {"log_every": 2, "progress": False, "loggers": loggers}
    engine().run(epochs=2, validate=lambda: test, **options)


def numbers_of(rows: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """The curves in rows of JSON: (step, number) by name, a curve for each place of a list."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, value in row.items():
            several = enumerate(value) if isinstance(value, list) else [("", value)]
            for i, number in several:
                if name not in ("step", "epoch") and isinstance(number, int | float):
                    key = name if i == "" else f"{name}/{i}"
                    found.setdefault(key, []).append((row["step"], float(number)))
    return found


def test_the_rows_of_a_run(tmp_path: Path) -> None:
    with pytest.warns(mlopt.CapabilityWarning, match=r"fit/weights \(a Tensor of shape \(2, 3\)\)"):
        run(JsonlLogger(tmp_path / "a.jsonl"))
    rows = read_jsonl(tmp_path / "a.jsonl")
    assert [(row["step"], row["epoch"]) for row in rows] == [
        *[(2, 0)], *[(3, 1)] * 3, (4, 1), *[(6, 2)] * 3,
    ]  # fmt: skip
    step, log, means, test = rows[:4]
    assert step["fit/batch"] == 1.0
    assert (step["fit/complex/real"], step["fit/complex/imag"]) == (1.0, 2.0)
    assert math.isnan(step["fit/special/nan"])
    assert log["fit/batch"] == 2.0
    assert means["epoch/fit/batch"] == 1.0
    own = {"step": 3, "epoch": 1}
    assert test == {**own, "accuracy": 0.1, "validation/step": 7, "words": ["a", "b"]}


def test_tensorboard_shows_what_the_json_has(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    run(JsonlLogger(tmp_path / "a.jsonl"), TensorBoard(tmp_path / "board"))
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    tags = events.Tags()
    texts = {tag for tag in tags["tensors"] if tag.endswith("/text_summary")}
    found = {
        tag: [
            (e.step, float(tensor_util.make_ndarray(e.tensor_proto))) for e in events.Tensors(tag)
        ]
        for tag in tags["tensors"]
        if tag not in texts
    }
    expected = numbers_of(read_jsonl(tmp_path / "a.jsonl"))
    assert str(found) == str(expected)  # in which NaN is NaN
    assert texts == {"fit/word/text_summary", "words/text_summary"}
    word = events.Tensors("fit/word/text_summary")[0]
    assert tensor_util.make_ndarray(word.tensor_proto)[0] == b"word"
    assert tags["images"] == ["fit/weights"]
    assert [e.step for e in events.Images("fit/weights")] == [2, 3, 4, 6]
    assert np.array_equal(picture(events.Images("fit/weights")[0].encoded_image_string), DRAWN)


def test_wandb_keeps_what_the_json_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = offline(tmp_path, monkeypatch)
    from wandb.proto import wandb_internal_pb2 as wire

    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    logger = WandB("a project", name="a name", folder=tmp_path, config={"lr": 0.1}, mode="offline")
    logger.log_table("result", [{"name": "a", "error": 0.5}, {"name": "b"}])
    (tmp_path / "report.html").write_text("<p>report</p>")
    logger.log_file(tmp_path / "report.html")
    run(JsonlLogger(tmp_path / "a.jsonl"), logger)
    now = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert now == state

    records = [wire.Record.FromString(data) for data in kept()]
    table, *history = [
        {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in r.history.item}
        for r in records
        if r.WhichOneof("record_type") == "history"
    ]
    history = [{k: v for k, v in row.items() if not k.startswith("_")} for row in history]
    pictures = [row for row in history if "fit/weights/path" in row]
    rows = [row for row in history if row not in pictures]
    assert to_json(rows) == to_json(read_jsonl(tmp_path / "a.jsonl"))
    (folder,) = tmp_path.glob("wandb/offline-run-*/files")
    assert [row["step"] for row in pictures] == [2, 3, 4, 6]
    (image, *_) = (row["fit/weights/path"] for row in pictures)
    assert np.array_equal(picture((folder / image).read_bytes()), DRAWN)
    made = json.loads((folder / table["result/path"]).read_text())
    assert made["columns"] == ["name", "error"]
    assert made["data"] == [["a", 0.5], ["b", None]]
    files = [r.artifact for r in records if r.WhichOneof("record_type") == "artifact"]
    assert [a.type for a in files if a.name.startswith("report-")] == ["report"]
    begun = next(r.run for r in records if r.WhichOneof("record_type") == "run")
    assert (begun.project, begun.display_name) == ("a project", "a name")
    assert {i.key: i.value_json for i in begun.config.update}["lr"] == "0.1"
    ends = [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"]
    assert ends == [0]


def offline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """W&B keeps to a folder; what it kept there, as the bytes of its records."""
    wandb = pytest.importorskip("wandb", reason="pip install wandb")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(folder / name))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    wandb.teardown()  # whoever ran before has had it read the environment, which it does once

    def kept() -> Iterator[bytes]:
        wandb.teardown()  # its service writes on for a moment when a run has ended
        (path,) = folder.glob("wandb/offline-run-*/*.wandb")
        return records_in(path.read_bytes())

    return kept


def records_in(data: bytes) -> Iterator[bytes]:
    """The records of a file in the format of LevelDB's logs, which the package writes.

    Blocks of 32 KiB hold parts: a checksum, a length, a kind (whole, first, middle, last), bytes.
    """
    at, parts = 7, b""  # behind the header of the file
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


#: The least number is black and the greatest white: 0 to 5 in steps of a fifth.
DRAWN = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)


def picture(data: bytes) -> np.ndarray:
    image = pytest.importorskip("PIL.Image")
    return np.array(image.open(io.BytesIO(data)).convert("L"))


@pytest.mark.parametrize(
    ("given", "drawn"),
    [
        (np.array([[True, False]]), [[255, 0]]),
        (torch.tensor([[3, 200]], dtype=torch.uint8), [[3, 200]]),
        (torch.tensor([[2.0, 2.0]]), [[0, 0]]),
        (torch.tensor([[math.nan, 1.0, 3.0, math.inf]]), [[0, 0, 255, 0]]),
        (torch.tensor([[-1e300, 1e300]], dtype=torch.float64), [[0, 255]]),
        (torch.tensor([[0.0, 1.0]]).bfloat16().to_sparse(), [[0, 255]]),
        (torch.arange(6).reshape(3, 1, 2), [[[0, 102, 204], [51, 153, 255]]]),
    ],
)
def test_numbers_become_shades(given: Any, drawn: Any) -> None:
    from mlopt.loggers.pictures import as_picture

    assert as_picture(given).tolist() == drawn


@pytest.mark.parametrize(
    ("kind", "package", "arguments"),
    [(TensorBoard, "torch.utils.tensorboard.writer", ("board",)), (WandB, "wandb", ()),
     (WandB, "PIL", ())],
)  # fmt: skip
def test_a_missing_package_is_named(
    kind: Any, package: str, arguments: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(mlopt.SettingsError, match=r"missing; install .* pip install"):
        kind(*arguments)
    assert not [*tmp_path.iterdir()]


def test_wandb_that_begins_no_run_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")

    def refuse(**options: Any) -> None:
        raise wandb.errors.UsageError("not logged in")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(mlopt.SettingsError, match=r"project='p'.*not logged in.*wandb login"):
        WandB("p")

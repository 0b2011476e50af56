"""Right calls of `mlopt.loggers` and `mlopt.report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from arguments.example import Example, folder, of

from mlopt import loggers, report

__all__ = ["EXAMPLES"]


def run_folder() -> report.RunFolder:
    return report.RunFolder.create(folder() / "run", {"seed": 0})


def lines() -> Path:
    path = folder() / "metrics.jsonl"
    with loggers.JsonlLogger(path) as logger:
        logger.log({"loss": 1.0})
    return path


def on_a_logger() -> Any:
    return loggers.JsonlLogger(folder() / "metrics.jsonl")


def a_file() -> Path:
    path = folder() / "a file"
    path.write_text("not ours\nat all\n")
    return path


def in_tensorboard() -> Any:
    pytest.importorskip("tensorboard")
    return loggers.TensorBoard(folder())


def board() -> dict[str, Any]:
    pytest.importorskip("tensorboard")
    return {"folder": folder()}


def project() -> dict[str, Any]:
    pytest.importorskip("wandb")
    return {"mode": "disabled", "folder": folder()}


def at_wandb() -> Any:
    pytest.importorskip("wandb")
    return loggers.WandB(mode="disabled")


def several() -> Any:
    return loggers.Several([loggers.Console(only=["nothing"])])


def row() -> dict[str, Any]:
    return {"row": {"step": 1, "loss": 1.0}}


def image() -> dict[str, Any]:
    return {**row(), "name": "weights", "image": [[0.0, 1.0]]}


def table() -> dict[str, Any]:
    return {"name": "result", "rows": [{"a": 1}]}


UNLIKE = {"row": ({"loss": object()},)}
NO_STATE = {"state": ({}, {"step": "one"}, {"size": 1}, [1])}
NO_PICTURE = {"image": (3, [[[[1.0]]]], [["a"]], object())}
NO_FILE = {"path": (folder(), "no such file")}
OUTSIDE = ("../out.json", "/tmp/out.json", "")  # no name of a file in the folder

EXAMPLES: dict[str, Example] = {
    "mlopt.loggers.Console": of(only="empty"),
    "mlopt.loggers.Console.close": of(on=loggers.Console),
    "mlopt.loggers.Console.log": of(row, on=loggers.Console, wrong=UNLIKE),
    "mlopt.loggers.Several": of(
        lambda: {"loggers": [loggers.Console()]},
        loggers="empty",
        wrong={"loggers": ([3], [loggers.Console])},
    ),
    "mlopt.loggers.Several.close": of(on=several),
    "mlopt.loggers.Several.log": of(row, on=several),
    "mlopt.loggers.Several.log_file": of(
        lambda: {"path": a_file()}, on=several, path="empty, unknown"
    ),
    "mlopt.loggers.Several.log_image": of(
        image, on=several, name="empty, unknown", image="anything"
    ),
    "mlopt.loggers.Several.log_table": of(table, on=several, name="empty, unknown", rows="empty"),
    "mlopt.loggers.TensorBoard": of(board, folder="empty, unknown", wrong={"folder": (a_file(),)}),
    "mlopt.loggers.TensorBoard.check": of(on=in_tensorboard),
    "mlopt.loggers.TensorBoard.close": of(on=in_tensorboard),
    "mlopt.loggers.TensorBoard.log": of(row, on=in_tensorboard, wrong=UNLIKE),
    "mlopt.loggers.TensorBoard.load_state_dict": of(
        lambda: {"state": {"step": 0, "file": 0}}, on=in_tensorboard, wrong=NO_STATE
    ),
    "mlopt.loggers.TensorBoard.state_dict": of(on=in_tensorboard),
    "mlopt.loggers.TensorBoard.log_image": of(
        image, on=in_tensorboard, name="empty, unknown", wrong=NO_PICTURE
    ),
    "mlopt.loggers.TensorBoard.log_table": of(
        table, on=in_tensorboard, name="empty, unknown", rows="empty"
    ),
    "mlopt.loggers.WandB": of(
        project,
        project="empty, unknown",
        name="empty, unknown",
        folder="empty, unknown",
        options="anything",
    ),
    "mlopt.loggers.WandB.close": of(on=at_wandb),
    "mlopt.loggers.WandB.log": of(row, on=at_wandb, wrong=UNLIKE),
    "mlopt.loggers.WandB.log_file": of(lambda: {"path": a_file()}, on=at_wandb, wrong=NO_FILE),
    "mlopt.loggers.WandB.log_image": of(
        image, on=at_wandb, name="empty, unknown", wrong=NO_PICTURE
    ),
    "mlopt.loggers.WandB.log_table": of(table, on=at_wandb, name="empty, unknown", rows="empty"),
    "mlopt.loggers.JsonlLogger": of(
        lambda: {"path": folder() / "metrics.jsonl"},
        path="unknown",
        wrong={"path": (folder(), a_file() / "below")},
    ),
    "mlopt.loggers.JsonlLogger.close": of(on=on_a_logger),
    "mlopt.loggers.JsonlLogger.cut": of(lambda: {"size": 1}, on=on_a_logger, size="0"),
    "mlopt.loggers.JsonlLogger.log": of(
        lambda: {"row": {"loss": 1.0}}, on=on_a_logger, wrong={"row": ({"loss": object()},)}
    ),
    "mlopt.loggers.JsonlLogger.load_state_dict": of(
        lambda: {"state": {"size": 0, "crc32": 0, "file": 0}}, on=on_a_logger, wrong=NO_STATE
    ),
    "mlopt.loggers.JsonlLogger.state_dict": of(on=on_a_logger),
    "mlopt.loggers.Several.load_state_dict": of(
        lambda: {"state": several().state_dict()}, on=several
    ),
    "mlopt.loggers.Several.state_dict": of(on=several),
    "mlopt.loggers.from_json": of(lambda: {"value": "NaN"}, value="anything"),
    "mlopt.loggers.read_jsonl": of(
        lambda: {"path": lines()}, wrong={"path": (folder(), "no such file", a_file())}
    ),
    "mlopt.loggers.to_json": of(
        lambda: {"value": 1.0}, wrong={"value": (object(), {"a": [object()]}, 1j)}
    ),
    "mlopt.report.RunFolder": of(lambda: {"path": run_folder().root}, path="empty, unknown"),
    "mlopt.report.RunFolder.close": of(on=run_folder),
    "mlopt.report.RunFolder.cut": of(lambda: {"logged": 1}, on=run_folder, logged="0"),
    "mlopt.report.RunFolder.create": of(
        lambda: {"path": folder() / "run", "settings": {"seed": 0}},
        on=lambda: report.RunFolder,
        path="empty, unknown",
        wrong={"path": (a_file(),), "settings": ({"seed": object()},)},
    ),
    "mlopt.report.RunFolder.go_on": of(on=run_folder),
    "mlopt.report.RunFolder.log": of(
        lambda: {"phase": "search", "step": 0, "metrics": {"loss": 1.0}},
        on=run_folder,
        phase="empty, unknown",
        step="-1, 0",
        epoch="-1, 0",
        wrong={"metrics": ({"loss": object()},)},
    ),
    "mlopt.report.RunFolder.metrics": of(on=run_folder),
    "mlopt.report.RunFolder.open": of(
        lambda: {"path": run_folder().root},
        on=lambda: report.RunFolder,
        wrong={"path": (folder(), a_file())},
    ),
    "mlopt.report.RunFolder.path": of(
        lambda: {"name": "a.txt"}, on=run_folder, name="unknown", wrong={"name": OUTSIDE}
    ),
    "mlopt.report.RunFolder.read_json": of(
        lambda: {"name": "settings.json"}, on=run_folder, name="unknown", wrong={"name": OUTSIDE}
    ),
    "mlopt.report.RunFolder.save": of(
        lambda: {"name": "a.txt", "content": "a"},
        on=run_folder,
        name="unknown",
        content="empty, unknown",
        wrong={"name": OUTSIDE},
    ),
    "mlopt.report.RunFolder.save_json": of(
        lambda: {"name": "a.json", "content": {"a": 1}},
        on=run_folder,
        name="unknown",
        wrong={"name": OUTSIDE, "content": (object(),)},
    ),
    "mlopt.report.format_table": of(
        lambda: {"rows": [{"a": 1}], "columns": ["a"]},
        rows="empty",
        columns="empty, empty inside, unknown inside",
    ),
    "mlopt.report.write_comparison": of(
        lambda: {
            "folders": [run_folder().root, run_folder().root],
            "path": folder() / "comparison.html",
        },
        path="unknown",
        wrong={"folders": ([folder()], [a_file()], []), "path": (folder(),)},
    ),
    "mlopt.report.write_report": of(
        lambda: {"folder": run_folder()},
        name="unknown",
        wrong={"folder": (folder(), a_file()), "name": OUTSIDE},
    ),
}

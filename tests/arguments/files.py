"""Right calls of `mlopt.loggers` and `mlopt.report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


OUTSIDE = ("../out.json", "/tmp/out.json", "")  # no name of a file in the folder

EXAMPLES: dict[str, Example] = {
    "mlopt.loggers.JsonlLogger": of(
        lambda: {"path": folder() / "metrics.jsonl"},
        path="unknown",
        wrong={"path": (folder(), a_file() / "below")},
    ),
    "mlopt.loggers.JsonlLogger.close": of(on=on_a_logger),
    "mlopt.loggers.JsonlLogger.log": of(
        lambda: {"row": {"loss": 1.0}}, on=on_a_logger, wrong={"row": ({"loss": object()},)}
    ),
    "mlopt.loggers.from_json": of(lambda: {"value": "NaN"}, value="anything"),
    "mlopt.loggers.read_jsonl": of(
        lambda: {"path": lines()}, wrong={"path": (folder(), "no such file", a_file())}
    ),
    "mlopt.loggers.to_json": of(
        lambda: {"value": 1.0}, wrong={"value": (object(), {"a": [object()]}, 1j)}
    ),
    "mlopt.report.RunFolder": of(lambda: {"path": run_folder().root}, path="empty, unknown"),
    "mlopt.report.RunFolder.close": of(on=run_folder),
    "mlopt.report.RunFolder.create": of(
        lambda: {"path": folder() / "run", "settings": {"seed": 0}},
        on=lambda: report.RunFolder,
        path="empty, unknown",
        wrong={"path": (a_file(),), "settings": ({"seed": object()},)},
    ),
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
    "mlopt.report.write_report": of(
        lambda: {"folder": run_folder()},
        name="unknown",
        wrong={"folder": (folder(), a_file()), "name": OUTSIDE},
    ),
}

"""Where the rows of a run go besides metrics.jsonl: the console, TensorBoard, Weights & Biases."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlopt.loggers import Console, Several, TensorBoard, WandB
from mlopt.report import RunFolder

from ..settings import Settings


def begin_services(s: Settings, run: Path) -> list[Any]:
    """Begin the run at the services of the settings, before its folder is made.

    Args:
        s: the settings.
        run: its folder, whose name it has there.

    Raises:
        SettingsError: a package is missing, or nobody is logged in.
    """
    if "tensorboard" in s.logger_names:
        TensorBoard.check()
    config = {
        name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(s).items()
    }
    return [WandB(name=run.name, config=config)] if "wandb" in s.logger_names else []


@contextmanager
def logging_to(folder: RunFolder, s: Settings, services: Sequence[Any] = ()) -> Iterator[None]:
    """For a block, give what a run folder logs to the loggers of the settings, too.

    Args:
        folder: of the run; TensorBoard's files are in it.
        s: the settings.
        services: of `begin_services`.
    """
    found = list(services)
    if "console" in s.logger_names:
        found.append(Console())
    if "tensorboard" in s.logger_names:
        found.append(TensorBoard(folder.root / "tensorboard"))
    folder.loggers = Several(found)
    status: Any = "interrupted"
    try:
        yield
        status = "finished"
    except Exception:
        status = "failed"
        raise
    finally:
        folder.loggers.close(status)
        folder.loggers = Several([])


def log_report(folder: RunFolder, rows: Sequence[dict[str, Any]], report: Path) -> None:
    """Give the rows of a result, and its report, to loggers that take tables and files."""
    folder.loggers.log_table("result", rows)
    folder.loggers.log_file(report)

"""Runs of the examples that are small enough for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mlopt.report import RunFolder
from support import settings
from support.data import load_data, search_loaders
from support.settings import Settings

#: A whole run: search, retraining, test. Its one cell reduces; three have a normal one, too.
SMALL = [
    "--channels", "2", "--nodes", "1", "--cells", "1", "--epochs", "1", "--generator-epochs", "1",
    "--generator-width", "4", "--noise", "4", "--batch-size", "20", "--train-images", "64",
    "--eval-channels", "2", "--eval-cells", "1", "--eval-epochs", "1",
]  # fmt: skip
#: A search of a few steps in first order.
TINY = [
    "--channels", "4", "--nodes", "1", "--cells", "1", "--epochs", "1", "--warmup", "0",
    "--generator-epochs", "0", "--generator-width", "2", "--noise", "4", "--batch-size", "32",
    "--train-images", "64", "--order", "first", "--eval-channels", "2", "--eval-cells", "1",
    "--eval-epochs", "1",
]  # fmt: skip


def small(folder: Path, *more: str, example: str | None = None) -> Settings:
    """The settings of a small whole run into `folder`/run."""
    arguments = [*SMALL, "--run-folder", str(folder / "run"), *more]
    return settings.parse(None, arguments, example=example)


def small_sgl(folder: Path, *more: str) -> Settings:
    """The same of SGL, whose table in the presets has its lambda."""
    return small(folder, *more, example="sgl_darts")


def ready(folder: Path, example: Any, *more: str) -> tuple[Any, ...]:
    """The first stage of a tiny search, and what it needs to run."""
    s = settings.parse(None, [*TINY, "--run-folder", str(folder / "run"), *more])
    data, scheme = load_data(s), example.scheme
    loaders = search_loaders(data, s, plain=scheme.plain, unlabeled=scheme.unlabeled)
    torch.manual_seed(0)
    return scheme(data, *loaders, s), loaders, data, s


def search_epochs(folder: RunFolder) -> list[dict[str, Any]]:
    """What a search has logged of each of its epochs."""
    return [row for row in folder.metrics() if row["phase"] == "search-epoch"]


def left_by_overwriting(folder: Path) -> set[str]:
    """What another run would find in the folder of one, besides what it writes at once."""
    RunFolder.create(folder, {}, overwrite=True).close()
    own = {"settings.json", "environment.json", "state.json"}
    return {path.name for path in folder.iterdir()} - own

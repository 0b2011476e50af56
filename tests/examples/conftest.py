"""Fixtures of the tests of the examples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlopt.report import figures
from support.pipeline import learners


@pytest.fixture(autouse=True)
def no_charts() -> Iterator[pytest.MonkeyPatch]:
    """Empty charts and cells, which take longer to draw than a small run; `undo()` draws them.

    All files are written. That charts show what was logged, tests/report sees; cells are drawn by
    one run of LFM-CW, and by those of evaluate.py.
    """

    def draw(genotype: Any, path: Path, *args: Any, **kwargs: Any) -> None:
        Path(path).write_text("<svg></svg>")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learners, "draw", draw)
        patch.setattr(figures, "_svg", lambda *args, **kwargs: "<svg></svg>")
        yield patch

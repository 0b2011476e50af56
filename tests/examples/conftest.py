"""Fixtures of the tests of the examples."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlopt.report import figures


@pytest.fixture(autouse=True)
def no_charts() -> Iterator[pytest.MonkeyPatch]:
    """Reports with empty charts, which take longer to draw than a small run; `undo()` draws them.

    All else of a report is written. That charts show what was logged, tests/report sees.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "_svg", lambda *args, **kwargs: "<svg></svg>")
        yield patch

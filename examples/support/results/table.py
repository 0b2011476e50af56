"""Results as people read them: a table, and what a run has cost."""

from __future__ import annotations

from collections.abc import Sequence

from mlopt.report import format_table

from .rows import Row


def result_table(rows: Sequence[Row], *, markdown: bool = False) -> str:
    """The rows as text, without the columns that no row fills."""
    headings = {
        "name": "",
        "search": "search",
        "passes": "network passes",
        "retraining": "retraining",
        "parameters": "parameters",
        "multiply_adds": "multiply-adds",
        "test_error": "test error, %",
        "standard_error": "standard error, %",
        "deviation": "deviation over seeds, %",
        "test_error_top5": "top-5 error, %",
    }
    shown = [
        {
            **row,
            "search": cost(
                row.get("search_seconds"),
                row.get("search_device", row.get("device")),
                row.get("search_ranks", 1),
            ),
            "retraining": cost(row.get("retrain_seconds"), row.get("device")),
        }
        for row in rows
    ]
    filled = {
        key: heading
        for key, heading in headings.items()
        if any(row.get(key) is not None for row in shown)
    }
    return format_table(shown, filled, markdown=markdown)


def cost(seconds: float | None, device: str | None, ranks: int = 1) -> str | None:
    """GPU-days or CPU hours of all ranks, as papers print them.

    If it took less than ten minutes, that many seconds.
    """
    if seconds is None:
        return None
    if seconds < 600:
        return f"{seconds:.3g} s"
    if device and device.startswith("cuda"):
        return f"{ranks * seconds / 86400:.3g} GPU-days"
    return f"{ranks * seconds / 3600:.3g} CPU hours"

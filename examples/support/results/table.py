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
            "search": cost(row.get("search_seconds"), row.get("search_device", row.get("device"))),
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


def cost(seconds: float | None, device: str | None) -> str | None:
    """GPU-days or CPU hours, as papers print them; seconds if it took less than ten minutes."""
    if seconds is None:
        return None
    if seconds < 600:
        return f"{seconds:.3g} s"
    if device and device.startswith("cuda"):
        return f"{seconds / 86400:.3g} GPU-days"
    return f"{seconds / 3600:.3g} CPU hours"

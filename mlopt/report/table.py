"""Rows of results as a table of text: aligned for a terminal, or as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mlopt._arguments import checked
from mlopt._errors import DataError

__all__ = ["format_table"]


@checked(DataError)
def format_table(
    rows: Sequence[Mapping[str, object]],
    columns: Sequence[str] | Mapping[str, str] | None = None,
    *,
    markdown: bool = False,
) -> str:
    """Format rows as a table whose columns line up; numbers are aligned to the right.

    >>> print(format_table([{"method": "LFM-CW", "error": 2.5}, {"method": "chance", "error": 90}]))
    method  error
    ------  -----
    LFM-CW    2.5
    chance     90

    Args:
        rows: one mapping per row; a value that is missing or None is shown as "-".
        columns: the keys to show, in order, or a mapping from key to heading. By default all keys,
            in the order in which they first occur.
        markdown: write a Markdown table, which lines up as plain text as well.

    Returns:
        The lines of the table, without a newline at the end.

    Raises:
        DataError: an argument is not what it must be.
    """
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
    heads = dict(columns) if isinstance(columns, Mapping) else {key: key for key in columns}
    cells = [[_cell(row.get(key), markdown) for key in heads] for row in rows]
    titles = [_cell(title, markdown) for title in heads.values()]
    right = [
        any(_is_number(row.get(key)) for row in rows)
        and all(_is_number(row.get(key)) or row.get(key) is None for row in rows)
        for key in heads
    ]
    widths = [
        max([3 if markdown else 1, len(title), *(len(line[i]) for line in cells)])
        for i, title in enumerate(titles)
    ]

    def line(parts: Sequence[str]) -> str:
        aligned = [
            part.rjust(width) if is_right else part.ljust(width)
            for part, width, is_right in zip(parts, widths, right, strict=True)
        ]
        return f"| {' | '.join(aligned)} |" if markdown else "  ".join(aligned).rstrip()

    if markdown:
        rule = [
            "-" * (width - 1) + ":" if is_right else "-" * width
            for width, is_right in zip(widths, right, strict=True)
        ]
    else:
        rule = ["-" * width for width in widths]
    return "\n".join([line(titles), line(rule), *(line(row) for row in cells)])


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: object, markdown: bool) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        text = f"{value:.4g}" if abs(value) < 1e4 or not math.isfinite(value) else f"{value:,.0f}"
    elif isinstance(value, int) and not isinstance(value, bool):
        text = f"{value:,}"
    else:
        text = " ".join(str(value).split())
    return text.replace("|", "\\|") if markdown else text

"""Rows of metrics: where they stand, and what each of their entries is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

__all__ = ["POSITION", "Status", "columns_of", "entries", "place"]

#: How a run has ended.
Status = Literal["finished", "interrupted", "failed"]

#: What a row says of itself, beside its metrics.
POSITION = ("phase", "step", "epoch")


def place(row: Mapping[str, Any]) -> str | None:
    """By what a row is placed on an axis: "step", or "epoch" where it has no step; None if neither.

    Args:
        row: names and values.

    Returns:
        The name.
    """
    return next((name for name in ("step", "epoch") if row.get(name) is not None), None)


def entries(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The metrics of a row, each by a name of its own: behind the row's phase, if it has one.

    So rows of a search and of a retraining, both of which have a loss, make two curves.

    Args:
        row: names and values.

    Yields:
        Names and values; those of dicts by joined names.
    """
    before = f"{row['phase']}/" if row.get("phase") else ""
    for name, value in row.items():
        if name not in POSITION or isinstance(value, Mapping):
            yield from _flat(f"{before}{name}", value)


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}/{key}", inner)
    else:
        yield name, value


def columns_of(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Rows of a table as its columns, in the order in which they first come, and its cells.

    Args:
        rows: dicts of columns.

    Returns:
        The names, and for each row its values; None where it has none.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    return names, [[row.get(name) for name in names] for row in rows]

"""The learners of a run that has several: what each found, and how much of it is the same."""

from __future__ import annotations

from typing import Any

from mlopt.report.page import card, escape, grid, section, table
from mlopt.report.positions import number
from mlopt.report.result import MISSING, percent, plain
from mlopt.report.run_data import RunData

__all__ = ["learners"]

_MEASURED = {
    "validation/loss": "validation loss",
    "validation/error": "validation error, %",
    "entropy/normal": "entropy, normal",
    "entropy/reduce": "entropy, reduction",
    "parameters": "parameters",
}
_SHARED = {
    "edges": "edges in common",
    "operations": "edges and operations in common",
    "total_variation": "total variation of the mixtures",
}


def learners(run: RunData) -> str:
    """Tables of the learners and of their agreement, and their genotypes side by side.

    Args:
        run: one with a learners.json; else the section is empty.

    Returns:
        HTML.
    """
    content = run.files.get("learners")
    content = content if isinstance(content, dict) else {}
    rows, pairs = _dicts(content.get("learners")), _dicts(content.get("pairs"))
    heads = {key: head for key, head in _MEASURED.items() if any(key in row for row in rows)}
    tested = any(number(row.get("test_error")) is not None for row in rows)
    body = [
        [str(row.get("name"))]
        + ([percent(row)] if tested else [])
        + [plain(row.get(key)) for key in heads]
        for row in rows
    ]
    test = ["test error, % (± standard error)"] if tested else []
    genotypes = [
        card(str(row.get("name")), f"<pre>{escape(row['genotype'])}</pre>")
        for row in rows
        if row.get("genotype")
    ]
    return section(
        "The learners",
        "At the end of the search; entropies in nats. The first one, whose validation loss is the "
        "lowest, is the result.",
        table(["", *test, *heads.values()], body),
        _heading("What they have in common", _agreement(pairs)),
        _heading("Their genotypes", grid(genotypes, "wide" if len(genotypes) > 1 else "")),
    )


def _agreement(pairs: list[dict[str, Any]]) -> str:
    how = (
        '<p class="how">Fractions of a genotype. Learners that agree by chance alone share edges, '
        "too: both edges of a cell's first node always. Total variation is 0 for equal mixtures "
        "of operations and 1 for mixtures that share none.</p>\n"
    )
    body = [
        [_names(pair), *(_fraction(pair.get(key)) for key in _SHARED)]
        for pair in pairs
        if any(number(pair.get(key)) is not None for key in _SHARED)
    ]
    return how + table(["", *_SHARED.values()], body) if body else ""


def _heading(title: str, content: str) -> str:
    return f"<br><h3>{escape(title)}</h3>\n{content}" if content else ""


def _names(pair: dict[str, Any]) -> str:
    names = pair.get("names")
    return " and ".join(str(name) for name in names) if isinstance(names, list) else MISSING


def _fraction(value: object) -> str:
    numeric = number(value)
    return MISSING if numeric is None else f"{numeric:.2f}"


def _dicts(value: object) -> list[dict[str, Any]]:
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]

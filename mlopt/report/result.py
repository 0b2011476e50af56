"""The top of a report: the result in one sentence, one number, one chart and one table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mlopt.report.figures import dot_chart
from mlopt.report.page import card, escape, section, table
from mlopt.report.positions import number
from mlopt.report.run_data import RunData

__all__ = ["MISSING", "percent", "plain", "result", "result_rows"]

MISSING = "–"
#: Columns that are shown if a row has a number there, by their headings.
_COLUMNS = {
    "deviation over seeds, %": "deviation",
    "top-5 error, %": "test_error_top5",
    "parameters of the network": "parameters",
    "multiply-adds": "multiply_adds",
}
BASELINES = ("chance", "logistic regression")  # not what a search is compared with


def result(title: str, runs: Sequence[RunData], *, headline: bool = True) -> str:
    """The result in one sentence, one number, one chart and one table.

    Args:
        title: of the run.
        runs: the run, and those beside it.
        headline: whether the page is about the first of them, whose number then stands out.

    Returns:
        HTML.
    """
    rows = result_rows(runs)
    dataset = runs[0].result.get("dataset")
    what = "multi-level optimization run" + ("" if headline else "s")
    eyebrow = " · ".join([what, *([str(dataset)] if dataset else [])])
    left = f'<p class="eyebrow">{escape(eyebrow)}</p>\n<h1>{escape(title)}</h1>'
    left += "".join(_states(runs))
    measured = [row for row in rows if number(row.get("test_error")) is not None]
    chart = big = ""
    if measured:
        texts = [percent(row) for row in measured]
        chart = dot_chart(
            [str(row["name"]) for row in measured],
            [float(row["test_error"]) for row in measured],
            [number(row.get("standard_error")) for row in measured],
            x_label="test error, %",
            texts=texts,
            series=[_series(row, runs) for row in measured],
        )
        if measured[0] is rows[0]:
            value, *spread = texts[0].split(" ± ")
            small = f" ± {spread[0]} % test error" if spread else " % test error"
            figure = f'<p class="big">{escape(value)}<small>{escape(small)}</small></p>\n'
            big = figure if headline else ""
            big += f'<p class="lead">{escape(_sentence(measured))}</p>'
    columns = {"": "name", "test error, % (± standard error)": "test_error"}
    for heading, key in _COLUMNS.items():
        if any(number(row.get(key)) is not None for row in rows):
            columns[heading] = key
    body = [
        [percent(row) if key == "test_error" else plain(row.get(key)) for key in columns.values()]
        for row in rows
    ]
    notes = runs[0].result.get("notes")
    items = [f"<li>{escape(note)}</li>" for note in (notes if isinstance(notes, list) else [])]
    remarks = "\n".join(["<ul>", *items, "</ul>"]) if items else ""
    top = f'<div class="hero">\n<div>\n{left}\n{big}\n</div>\n{card("", chart)}\n</div>'
    return top + "\n" + section("Result", "", table(list(columns), body), remarks)


def _states(runs: Sequence[RunData]) -> list[str]:
    """A line for each run that has not finished."""
    return [
        f'\n<p class="state {run.state.name}">'
        f"{escape(f'{run.name}: ' if len(runs) > 1 else '')}{escape(run.state.text)}</p>"
        for run in runs
        if run.state.name != "finished"
    ]


def result_rows(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """The rows of result.json, and of the runs beside it that it does not name; baselines last."""
    rows = runs[0].rows()
    names = {row["name"] for row in rows}
    rows = rows + [row for run in runs[1:] for row in run.rows()[:1] if row["name"] not in names]
    return sorted(rows, key=lambda row: row["name"].lower() in BASELINES)


def _series(row: dict[str, Any], runs: Sequence[RunData]) -> int | None:
    names = [run.name for run in runs]
    return names.index(str(row["name"])) if str(row["name"]) in names else None


def _sentence(rows: Sequence[dict[str, Any]]) -> str:
    """The comparison with the first other search, and whether it means anything."""
    own = rows[0]
    text = f"{own['name']} makes {percent(own)} % errors on the test set."
    if len(rows) < 2 or str(rows[1]["name"]).lower() in BASELINES:
        return text
    other = rows[1]
    text = f"{text[:-1]}, {other['name']} makes {percent(other)} %."
    errors = [number(row.get("standard_error")) for row in (own, other)]
    if None in errors:
        return text
    spread = math.hypot(*(error for error in errors if error is not None))
    if not spread:
        return text
    difference = abs(own["test_error"] - other["test_error"])
    if difference <= 2 * spread:
        return f"{text} That is within two standard errors: this run cannot tell them apart."
    return f"{text} The difference is {difference / spread:.1f} standard errors."


def percent(row: dict[str, Any]) -> str:
    """The test error of a row with its standard error, in percent but without the sign."""
    value, spread = number(row.get("test_error")), number(row.get("standard_error"))
    if value is None:
        return MISSING
    return f"{value:.2f}" + (f" ± {spread:.2f}" if spread is not None else "")


def plain(value: object) -> str:
    """A number as a person writes it; other values as they are."""
    numeric = number(value)
    if numeric is None:
        return MISSING if value is None else str(value)
    return f"{numeric:,.0f}" if numeric == int(numeric) else f"{numeric:,.4g}"

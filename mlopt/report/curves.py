"""The training curves of a report: every number that was logged, over the epochs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mlopt.report.figures import Line, line_chart
from mlopt.report.page import card, escape, grid, section
from mlopt.report.run_data import RunData, lines_of, metric_of

__all__ = ["curves"]

_GROUPS = (
    ("Search: the architecture", "search-epoch", "search epoch"),
    ("Search: the problems", "search", "search epoch"),
    ("Retraining the network that was found", "retrain", "epoch of retraining"),
)
_UNTRAINED = "Grey dots: the network that is measured was not trained yet, so it guesses."
#: A problem's, or that of one of its groups of parameters.
_RATE = "/lr"


def curves(runs: Sequence[RunData]) -> str:
    """Every logged number over time, runs and learners beside each other where they logged it.

    Args:
        runs: the run, and those beside it.

    Returns:
        HTML.
    """
    parts = []
    for heading, phase, x_label in _GROUPS:
        keys = dict.fromkeys(metric_of(key) for run in runs for key in run.keys(phase))
        cards = []
        for key in keys:
            if "memory" in key or _RATE in key:
                continue
            lines = lines_of(runs, phase, key)
            chart = line_chart(lines, x_label=x_label, y_label=_unit(key))
            title = key.replace("/", " · ").replace("_", " ")
            cards.append(card(title, chart and chart + _untrained(lines)))
        parts.append(_titled(heading, cards))
    parts.insert(2, _titled("Search: the learning rates", [_rates(run, runs) for run in runs]))
    return section(
        "Training curves",
        "Long curves are averaged; the pale band spans the single values.",
        *parts,
    )


def _titled(title: str, cards: Sequence[str]) -> str:
    content = grid(cards)
    return f"<h3>{escape(title)}</h3>\n{content}<br>" if content else ""


def _rates(run: RunData, runs: Sequence[RunData]) -> str:
    """The learning rates of a search: one line for all problems that have the same."""
    same: dict[tuple[float, ...], list[str]] = {}
    found: dict[tuple[float, ...], Line] = {}
    for key in run.keys("search"):
        if _RATE in key:
            line = run.line("search", key)
            points = (*line.x, *line.y)
            same.setdefault(points, []).append(key.replace(_RATE, ""))
            found[points] = line
    labels = [", ".join(names) for names in _shortened([*same.values()])]
    lines = [
        dataclasses.replace(line, label=label, series=place)
        for place, (line, label) in enumerate(zip(found.values(), labels, strict=True))
    ]
    chart = line_chart(lines, x_label="search epoch", y_label="learning rate")
    title = ": ".join([*([run.name] if len(runs) > 1 else []), "; ".join(labels)])
    return card(title, chart)


def _shortened(groups: list[list[str]]) -> list[list[str]]:
    """Names without their learners', unless that would be the name of two lines."""
    short = [list(dict.fromkeys(map(metric_of, names))) for names in groups]
    every = [name for names in short for name in names]
    return short if len(set(every)) == len(every) else groups


def _untrained(lines: Sequence[Line]) -> str:
    """What the dots in a chart are, for someone who wonders at an error of nine in ten."""
    some = any(place <= line.until for line in lines for place in line.x)
    return f'<p class="how">{escape(_UNTRAINED)}</p>' if some else ""


def _unit(key: str) -> str:
    last = key.split("/")[-1]
    if key.startswith("entropy/"):
        return "entropy, nats"
    if key in ("agreement/edges", "agreement/operations"):
        return "fraction in common"
    if key.startswith(("skips/", "none/")):
        return "share of what it keeps" if key.startswith("skips/") else "largest weight"
    if key == "gap":
        return "validation loss - training loss"
    return {"error": "error, %", "lr": "learning rate"}.get(last, last.replace("_", " "))

"""The alarms of a search: what makes its result doubtful, as sentences and charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlopt.report.figures import line_chart
from mlopt.report.page import card, escape, grid, section
from mlopt.report.run_data import RunData, lines_of

__all__ = ["alarms"]

_PHASE = "search-epoch"
_HOW = (
    "Looked for after every epoch in which the architecture changed. The normal cell has collapsed "
    "if most of what it keeps are skip connections. The other alarms are no collapse; they say "
    "that the result may mean little."
)
#: What is charted: the part of the name before the cell, a title, and the axis.
_CHARTS = (
    ("skips/normal", "Skip connections in the normal cell", "share of what it keeps"),
    ("none/normal", "Largest weight on none in the normal cell", "weight"),
)


def alarms(runs: Sequence[RunData]) -> str:
    """The alarms that the runs logged, and the signs that lead to them, over the epochs.

    Args:
        runs: those whose search logged a list `alarms` each epoch; without one the section is
            empty.

    Returns:
        HTML.
    """
    watched = [run for run in runs if any(isinstance(x, list) for _, x in _logged(run))]
    if not watched:
        return ""
    several = len(watched) > 1
    items = [
        f"{run.name}: {text}" if several else text for run in watched for text in _sentences(run)
    ]
    found = "\n".join(f"<li>{escape(item)}</li>" for item in items)
    cards = []
    for key, title, unit in _CHARTS:
        lines = lines_of(runs, _PHASE, key)
        if any(line.y for line in lines) and items:
            chart = line_chart(lines, x_label="search epoch", y_label=unit, y_range=(0.0, 1.0))
            cards.append(card(title, chart))
    return section(
        "Alarms of the search",
        _HOW,
        f"<ul>\n{found}\n</ul>" if items else "<p>No alarm was raised.</p>",
        grid(cards),
    )


def _logged(run: RunData) -> list[tuple[Any, Any]]:
    """Epochs and what `alarms` was in them."""
    return [(row.get("epoch"), row.get("alarms")) for row in run.phases.get(_PHASE, [])]


def _watched(run: RunData) -> list[Any]:
    """The epochs after which alarms were looked for."""
    return [epoch for epoch, texts in _logged(run) if isinstance(texts, list)]


def _sentences(run: RunData) -> list[str]:
    """One for each kind of alarm and learner: the epochs that had it, and its last words."""
    spans: dict[str, list[tuple[Any, str]]] = {}
    for epoch, texts in _logged(run):
        for text in texts if isinstance(texts, list) else []:
            spans.setdefault(_kind(str(text)), []).append((epoch, str(text)))
    return [_sentence(found, _watched(run)) for found in spans.values()]


def _sentence(found: list[tuple[Any, str]], epochs: Sequence[Any]) -> str:
    """In which of the epochs it was found, and what was found at last."""
    (first, _), (last, text) = found[0], found[-1]
    between = epochs[epochs.index(first) : epochs.index(last) + 1]
    where, at_last = f"Epoch {last}", ""
    if len(found) > 1:
        whole = len(between) == len(found)
        where = (
            f"Epochs {first} to {last}" if whole else f"{len(found)} epochs from {first} to {last}"
        )
        at_last = f" in epoch {last}"
    when = " (the last)" if last == epochs[-1] else ", not after"
    return f"{where}{when}: {text}{at_last}."


def _kind(text: str) -> str:
    """The words without their numbers, but with the learner's name before them."""
    learner, colon, words = text.rpartition(": ")
    return learner + colon + "".join(c for c in words if not (c.isdigit() or c in ".%"))

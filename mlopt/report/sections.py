"""The sections of a report below the result; each is empty if its data is missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mlopt.report.figures import Line, line_chart
from mlopt.report.page import card, escape, fold, grid, picture, section, table
from mlopt.report.result import MISSING
from mlopt.report.run_data import RunData

__all__ = ["cells", "details", "flat", "left_out", "mistakes"]

_MOST_CLASSES = 12
_MOST_SAMPLES = 6
_MOST_LEFT_OUT = 20


def cells(runs: Sequence[RunData]) -> str:
    """The learned cells of each run, side by side."""
    several = sum(bool(run.cells) for run in runs) > 1
    cards = []
    for run in runs:
        for path in run.cells:
            kind = path.stem.removeprefix("cells").strip("_- ").replace("_", " ")
            words = [run.name if several else "", kind]
            title = ": ".join(word for word in words if word)
            cards.append(card(title, picture(path, f"learned cells of {run.name} {kind}".strip())))
    return section(
        "The learned cells",
        "What the search decided: boxes are feature maps, arrows the operations it kept.",
        grid(cards, "wide" if len(cards) > 1 else ""),
    )


def mistakes(run: RunData) -> str:
    """Losses of the classes over the search, beside the images that were generated meanwhile."""
    lines = [line for line in run.class_lines() if line.y]
    lines.sort(key=lambda line: _late(line.y), reverse=True)
    shown = lines[:_MOST_CLASSES]
    values = [v for line in lines for v in _smooth(line).y]
    panels = ""
    if values:
        log = min(values) > 0 and max(values) > 8 * min(values)
        low = min(values) / 1.1 if log else min(0.0, *values)
        high = max(values) * 1.1 or 1.0
        x_label = "search epoch"
        panels = grid(
            [
                card(
                    line.label,
                    line_chart(
                        [_smooth(line)],
                        x_label=x_label,
                        y_label="loss",
                        size=(2.1, 1.35),
                        y_range=(low, high),
                        log=log,
                        context=[_smooth(other) for other in lines],
                    ),
                )
                for line in shown
            ],
            "small",
        )
    hidden = len(lines) > len(shown)
    more = f" The {len(shown)} hardest of {len(lines)} are shown." if hidden else ""
    left = (
        f'<div><h3>Validation loss of each class</h3>\n<p class="how">Hardest at the end first. '
        f"Grey: all classes, from the lowest to the highest loss; dashed: their "
        f"mean.{more}</p>\n{panels}</div>"
        if panels
        else ""
    )
    pictures = [
        card(caption, picture(path, f"generated images, {caption}", pixels=True))
        for caption, path in _spread(run.samples, _MOST_SAMPLES)
    ]
    right = (
        '<div><h3>Generated images</h3>\n<p class="how">What the generator drew at the same time, '
        f"for the second network to learn from.</p>\n{grid(pictures, 'small')}</div>"
        if pictures
        else ""
    )
    both = f'<div class="split">\n{left}\n{right}\n</div>' if left and right else left or right
    return section("What the network got wrong, and what was made of it", "", both)


def details(runs: Sequence[RunData]) -> str:
    """Settings, environment and genotypes, closed until they are asked for."""
    parts = []
    for index, run in enumerate(runs):
        of = f" of {run.name}" if len(runs) > 1 else ""
        for part in ("settings", "environment"):
            content = run.files.get(part)
            if isinstance(content, dict) and content and (index == 0 or part == "settings"):
                rows = [[name, flat(value)] for name, value in content.items()]
                title = part.capitalize() + (of if part == "settings" else "")
                parts.append(fold(title, table([], rows, facts=True)))
        if run.files.get("genotype"):
            text = json.dumps(run.files["genotype"], indent=2, ensure_ascii=False)
            parts.append(fold(f"Genotype{of}", f"<pre>{escape(text)}</pre>"))
    return section("Settings and environment", "", *parts)


def left_out(sentences: Sequence[str]) -> str:
    """What of the files is not in the report, and why."""
    items = "\n".join(f"<li>{escape(text)}</li>" for text in sentences[:_MOST_LEFT_OUT])
    more = len(sentences) - _MOST_LEFT_OUT
    rest = f"<p>And {more} more.</p>" if more > 0 else ""
    return section(
        "Left out",
        "What could not be read in the files of the run.",
        f"<ul>\n{items}\n</ul>" if items else "",
        rest,
    )


def flat(value: object) -> str:
    """A value of the settings as a line of text."""
    if isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value):
        return ", ".join(str(item) for item in value) or MISSING
    return MISSING if value is None else value if isinstance(value, str) else json.dumps(value)


def _late(values: Sequence[float]) -> float:
    """Mean of the last tenth: single batches say little about a class."""
    last = values[-max(1, len(values) // 10) :]
    return sum(last) / len(last)


def _smooth(line: Line) -> Line:
    """Means over 40 stretches of the search, so that classes can be told from noise."""
    count = min(40, len(line.y))
    edges = [i * len(line.y) // count for i in range(count + 1)]
    pairs = list(zip(edges, edges[1:], strict=False))
    x = [sum(line.x[a:b]) / (b - a) for a, b in pairs]
    return Line(line.label, x, [sum(line.y[a:b]) / (b - a) for a, b in pairs], line.series)


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` items, evenly spread, with the first and the last."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]

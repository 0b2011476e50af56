"""The architecture weights of a search over time: of each operation, and of each edge of a cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlopt.report.figures import Line, line_chart
from mlopt.report.page import card, escape, fold, grid, section
from mlopt.report.positions import number, positions
from mlopt.report.run_data import RunData

__all__ = ["weights"]

_PHASE = "search-epoch"
_KINDS = {"normal": "normal cell", "reduce": "reduction cell"}
_INPUTS = ("c(k-2)", "c(k-1)")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 150.0, 78.0, 24.0, 14.0  # of the chart of an edge
_POINTS = 60  # of one line in it


@dataclass(frozen=True)
class _Table:
    """The mixture weights of one kind of cell.

    Attributes:
        title: whose they are.
        operations: names of the columns.
        x: epochs completed.
        values: of each epoch, edge and operation.
    """

    title: str
    operations: Sequence[str]
    x: Sequence[float]
    values: Sequence[Sequence[Sequence[float]]]

    def mean(self, operation: int) -> list[float]:
        """The weight of an operation, as a mean over the edges, at each epoch."""
        return [sum(edge[operation] for edge in table) / len(table) for table in self.values]


def weights(runs: Sequence[RunData]) -> str:
    """How the mixtures of operations changed, for each kind of cell of each run and learner.

    Args:
        runs: those whose search logged `weights/normal`, `weights/reduce` and `operations` each
            epoch; without one the section is empty.

    Returns:
        HTML.
    """
    tables = [table for run in runs for table in _tables(run, several=len(runs) > 1)]
    cards = [card(table.title, _means(table)) for table in tables]
    edges = [fold(f"Each edge: {table.title}", grid(_edges(table), "small")) for table in tables]
    return section(
        "The architecture weights",
        "What the search gave to each operation: a mean over the edges, which begins even and is "
        "decided when one operation has all of an edge.",
        grid(cards, "wide"),
        *edges,
    )


def _tables(run: RunData, *, several: bool) -> list[_Table]:
    """Of the run, and of each of its learners, in the order of the log."""
    rows = run.phases.get(_PHASE, [])
    at = dict(zip(map(id, rows), positions(rows, each_epoch=True), strict=True))
    keys = dict.fromkeys(key for row in rows for key in row if key.endswith("weights/normal"))
    found = []
    for key in keys:
        learner = key.removesuffix("weights/normal")
        for kind, words in _KINDS.items():
            logged = _logged(rows, f"{learner}weights/{kind}")
            if not logged:
                continue
            last, shape = logged[-1][0], _shape(logged[-1][1])
            names = last.get(f"{learner}operations")
            if not isinstance(names, list) or len(names) != shape[1]:
                continue
            logged = [(row, table) for row, table in logged if _shape(table) == shape]
            whose = [run.name if several else "", learner.strip("/").replace("_", " "), words]
            title = ", ".join(word for word in whose if word)
            x = [at[id(row)] for row, _ in logged]
            found.append(_Table(title, [str(n) for n in names], x, [t for _, t in logged]))
    return found


def _logged(
    rows: Sequence[dict[str, Any]], key: str
) -> list[tuple[dict[str, Any], list[list[float]]]]:
    """The rows that have a table there, each with it."""
    return [(row, row[key]) for row in rows if _is_table(row.get(key))]


def _means(table: _Table) -> str:
    lines = [
        Line(name, table.x, table.mean(place), series=place)
        for place, name in enumerate(table.operations)
    ]
    return line_chart(
        lines, x_label="search epoch", y_label="mean weight", size=(4.6, 2.5), log=False
    )


def _edges(table: _Table) -> list[str]:
    """A small chart of each edge, in which the operation that leads at last stands out."""
    top = max(weight for epoch in table.values for edge in epoch for weight in edge) or 1.0
    cards = []
    for place, name in enumerate(_edge_names(len(table.values[0]))):
        at_last = table.values[-1][place]
        leader = max(range(len(at_last)), key=at_last.__getitem__)
        words = f"{table.operations[leader]} {at_last[leader]:.2f}"
        lines = [[epoch[place][o] for epoch in table.values] for o in range(len(at_last))]
        chart = _panel(table.x, lines, leader, top, f"{name}: weights of the operations; {words}")
        cards.append(card(name, f'{chart}<p class="how">{escape(words)}</p>'))
    return cards


def _panel(
    x: Sequence[float], lines: Sequence[Sequence[float]], leader: int, top: float, label: str
) -> str:
    """Lines from 0 to `top`; there are too many of these charts to let matplotlib draw them."""
    step = -(-len(x) // _POINTS)
    kept = sorted({*range(0, len(x), step), len(x) - 1})
    first, last = x[0], x[-1]
    wide, high = _WIDTH - _LEFT - 4, _HEIGHT - _BOTTOM - 6

    def path(line: Sequence[float]) -> str:
        return " ".join(
            f"{_LEFT + wide * ((x[i] - first) / (last - first) if last > first else 1):.1f},"
            f"{6 + high * (1 - line[i] / top):.1f}"
            for i in kept
        )

    def polyline(place: int) -> str:
        stroke = "var(--s1)" if place == leader else "var(--muted)"
        width = 2 if place == leader else 0.6
        return (
            f'<polyline fill="none" stroke="{stroke}" stroke-width="{width}" '
            f'points="{path(lines[place])}"/>'
        )

    def text(x: float, y: float, anchor: str, words: str) -> str:
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{words}</text>'

    others = [place for place in range(len(lines)) if place != leader]
    floor = 6 + high
    return (
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{escape(label)}" '
        f'style="font-size: 8px; fill: var(--muted)">'
        f'<path stroke="var(--rule)" d="M{_LEFT} {floor}H{_WIDTH - 4}"/>'
        + "".join(polyline(place) for place in (*others, leader))
        + text(_LEFT - 4, 9, "end", f"{top:.2f}")
        + text(_LEFT - 4, floor + 2, "end", "0")
        + text(_LEFT, _HEIGHT - 3, "start", f"{first:g}")
        + text(_WIDTH - 4, _HEIGHT - 3, "end", f"epoch {last:g}")
        + "</svg>"
    )


def _edge_names(edges: int) -> list[str]:
    """Both ends of each, if they are those of a cell: node by node, each fed by all before it."""
    names: list[str] = []
    node = len(_INPUTS)
    while len(names) < edges:
        states = [*_INPUTS, *map(str, range(2, node))]
        names += [f"{state} → {node}" for state in states]
        node += 1
    return names if len(names) == edges else [f"edge {place}" for place in range(1, edges + 1)]


def _is_table(value: Any) -> bool:
    """Whether it is a matrix of numbers, with an edge and an operation at least."""
    return (
        isinstance(value, list)
        and all(isinstance(row, list) and row for row in value)
        and len({len(row) for row in value}) == 1
        and all(number(item) is not None for row in value for item in row)
    )


def _shape(table: Sequence[Sequence[float]]) -> tuple[int, int]:
    return len(table), len(table[0])

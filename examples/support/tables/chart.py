"""What comes of a table of experiments, as a chart of its errors."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .experiment import Experiment
from .files import save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _RULE = "#1f2933", "#e2e0d9"
_OURS, _PAPER = "#0064a6", "#c04a00"


def chart(experiment: Experiment) -> Path | None:
    """Draw the errors: against the setting that the table names, or row by row.

    The paper's figures are drawn with them where they can be compared.

    Args:
        experiment: what is drawn; rows without a finished run are left out.

    Returns:
        The picture in the folder of the table; None if no run is finished.
    """
    from matplotlib.figure import Figure

    rows = [
        {**line.summary(), "series": line.row.series, "s": line.cells[0].s}
        for line in experiment.lines
        if line.results()
    ]
    if not rows:
        return None
    plot = experiment.table.plot
    series = list(dict.fromkeys(row["series"] for row in rows)) if plot else [""]
    size = (max(6.4, 4.0 * len(series)), 3.8 if plot else 1.6 + 0.36 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(experiment.table.title, fontsize=11, fontweight="bold", color=_INK)
    panels = figure.subplots(1, len(series), squeeze=False)[0]
    for axes, name in zip(panels, series, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        if plot:
            own = [row for row in rows if row["series"] == name]
            _against(axes, name, plot, own, experiment.comparable)
        else:
            _by_row(axes, rows, experiment.comparable)
    marks = [axes.get_legend_handles_labels() for axes in panels]
    legend = {label: mark for m in marks for mark, label in zip(*m, strict=True)}
    if len(legend) > 1:
        figure.legend(
            legend.values(), legend.keys(), loc="outside lower center", ncols=2, frameon=False
        )
    path = experiment.root / (f"error_against_{plot.strip('_')}.svg" if plot else "errors.svg")
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return save(path, text.getvalue())


def _against(axes: Axes, name: str, plot: str, rows: list[dict[str, Any]], paper: bool) -> None:
    """One series: its points with a bar of one deviation to each side."""
    rows = sorted(rows, key=lambda row: getattr(row["s"], plot))
    x = [getattr(row["s"], plot) for row in rows]
    axes.errorbar(
        x,
        [row["test_error"] for row in rows],
        [row["deviation"] or 0.0 for row in rows],
        fmt="o-",
        color=_OURS,
        capsize=3,
        label="ours",
    )
    points = [(at, r["published"]) for at, r in zip(x, rows, strict=True) if r["published"]]
    _published(axes, points, paper)
    axes.set_title(name, fontsize=10, color=_INK)
    axes.set_xlabel(plot.strip("_"))
    axes.set_ylabel("test error, %")
    axes.set_xticks(x, [f"{value:g}" for value in x])


def _by_row(axes: Axes, rows: list[dict[str, Any]], paper: bool) -> None:
    """A point for each row, with a bar of one deviation to each side."""
    axes.errorbar(
        [row["test_error"] for row in rows],
        range(len(rows)),
        xerr=[row["deviation"] or 0.0 for row in rows],
        fmt="o",
        color=_OURS,
        capsize=3,
        label="ours",
    )
    _published(axes, [(r["published"], at) for at, r in enumerate(rows) if r["published"]], paper)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("test error, %")
    axes.grid(axis="x", color=_RULE)
    axes.set_axisbelow(True)


def _published(axes: Axes, points: list[tuple[float, float]], paper: bool) -> None:
    if points and paper:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, "D", color=_PAPER, mfc="white", label="in the paper")

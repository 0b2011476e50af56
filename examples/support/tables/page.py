"""What comes of a table of experiments, as a page: its chart, its cells, its images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlopt.report.page import card, escape, grid, page, picture, section, table

from .chart import chart
from .experiment import Experiment
from .files import save
from .report import columns, notes, shown


def write_page(experiment: Experiment) -> Path:
    """Write the chart and page.html: the table, the chart, the cells and the generated images.

    Args:
        experiment: what is shown; cells and images are those of each row's first finished seed.

    Returns:
        The path of the page.
    """
    rows, drawn = shown(experiment), chart(experiment)
    headings = columns(rows)
    body = [[_plain(row[key]) for key in headings] for row in rows]
    remarks = "".join(f"<p>{escape(note)}</p>" for note in notes(experiment))
    cells, images = [], []
    for line in experiment.lines:
        label = line.row.label
        for cell in [cell for cell in line.cells if cell.result() is not None][:1]:
            found = sorted(cell.folder.glob("cells*.svg"))
            cells += [card(label, picture(path, f"cells of {label}")) for path in found]
            last = sorted(cell.folder.glob("samples/epoch_*.png"))[-1:]
            images += [card(label, picture(path, label, pixels=True)) for path in last]
    content = [
        f"<h1>{escape(experiment.table.title)}</h1>",
        table(list(headings.values()), body),
        remarks,
        section(
            "Errors",
            "Bars are one standard deviation over seeds.",
            grid([card("", picture(drawn, "test errors") if drawn else "")], "wide"),
        ),
        section("Learned cells", "", grid(cells, "wide" if len(cells) > 1 else "")),
        section(
            "Generated images",
            "What the generators drew at the end of the search; each line is one class.",
            grid(images),
        ),
    ]
    text = page(experiment.table.title, content, f"Written by: {experiment.command}")
    return save(experiment.root / "page.html", text)


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return (
        str(value)
        if isinstance(value, str)
        else f"{value:,.4g}"
        if value < 1e4
        else f"{value:,.0f}"
    )

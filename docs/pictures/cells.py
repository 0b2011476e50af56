"""Draws the cells of a genotype for the README: side by side, for light pages and for dark ones.

    make demo
    .venv/bin/python docs/pictures/cells.py runs/demo-digits-seed0

The argument is what `mlopt.nas.load_genotype` takes: a run folder, a file or a published name. The
pictures are `cells-light.svg` and `cells-dark.svg` beside this file, `cells.json` the genotype.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from mlopt.nas import Genotype, load_genotype
from mlopt.nas.draw import _INK, _arcs, _draw_cell, _extent

FOLDER = Path(__file__).parent
COLUMN, INCH = 2.2, 0.62  # distance of two states; size of a unit

# The colours of `mlopt.nas.draw`, and what they become on a dark page.
DARK = {
    "#ffffff": "#0d1117",  # page
    "#1f2933": "#e6edf3",  # text
    "#7b8794": "#8b949e",  # rims
    "#e4e7eb": "#21262d",  # inputs
    "#bbf0d3": "#1a5a3a",  # nodes that make the output
    "#2563eb": "#79b0ff",  # separable convolutions
    "#0d9488": "#3fc9bb",  # dilated convolutions
    "#9333ea": "#c89bff",  # other convolutions
    "#d97706": "#f0a34a",  # pooling
    "#6b7280": "#a3adb8",  # skips
}


def light(genotype: Genotype) -> str:
    """Both cells as one SVG, in the colours of `mlopt.nas.draw`."""
    cells = {
        "Normal cell": (_arcs(genotype.normal), genotype.normal_concat),
        "Reduction cell": (_arcs(genotype.reduce), genotype.reduce_concat),
    }
    extents = [_extent(arcs) for arcs, _ in cells.values()]
    bottom, top = min(e[0] for e in extents), max(e[1] for e in extents)
    width = COLUMN * (len(genotype.normal) // 2 + 1) + 1.4
    figure = Figure((2 * width * INCH, (top - bottom) * INCH + 0.5), layout="constrained")
    for axes, (name, (arcs, concat)) in zip(figure.subplots(1, 2), cells.items(), strict=True):
        axes.set_title(name, loc="left", fontsize=11, fontweight="bold", color=_INK)
        axes.set_aspect("equal")
        axes.set_axis_off()
        axes.set(xlim=(-0.7, width - 0.7), ylim=(bottom, top))
        _draw_cell(axes, arcs, concat)
    settings = {"svg.fonttype": "none", "svg.hashsalt": "cells", "font.family": "sans-serif"}
    text = io.StringIO()
    with matplotlib.rc_context(settings):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return re.sub(r"\n *<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)


def dark(picture: str) -> str:
    """The same for a dark page."""
    return re.sub("|".join(DARK), lambda colour: DARK[colour[0]], picture)


if __name__ == "__main__":
    genotype = load_genotype(sys.argv[1])
    picture = light(genotype)
    (FOLDER / "cells-light.svg").write_text(picture)
    (FOLDER / "cells-dark.svg").write_text(dark(picture))
    (FOLDER / "cells.json").write_text(genotype.to_json() + "\n")

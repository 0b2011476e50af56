"""Pictures of a genotype's cells."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mlopt._arguments import checked
from mlopt._errors import SettingsError
from mlopt._files import write_file
from mlopt.nas.genotype import Genotype

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

_INK = "#1f2933"
_EDGE = "#7b8794"
_INNER = "#e4e7eb"
_OUTPUT = "#bbf0d3"
_FAMILIES = {  # prefix of an operation's name: (name in the legend, colour)
    "max_pool": ("pooling", "#d97706"),
    "avg_pool": ("pooling", "#d97706"),
    "skip": ("skip", "#6b7280"),
    "sep": ("separable conv", "#2563eb"),
    "dil": ("dilated conv", "#0d9488"),
    "conv": ("conv", "#9333ea"),
}
_LABELS = {
    "max_pool_3x3": "max 3×3",
    "avg_pool_3x3": "avg 3×3",
    "skip_connect": "skip",
    "sep_conv_3x3": "sep 3×3",
    "sep_conv_5x5": "sep 5×5",
    "sep_conv_7x7": "sep 7×7",
    "dil_conv_3x3": "dil 3×3",
    "dil_conv_5x5": "dil 5×5",
    "conv_7x1_1x7": "1×7, 7×1",
}
_COLUMN = 2.2  # distance of two states


class _Arc(NamedTuple):
    """One operation: an arc between two states, above (side 1) or below (side -1) their row."""

    operation: str
    source: int
    target: int
    side: int

    @property
    def height(self) -> float:
        """How far the arc rises: the farther it reaches, the higher, so that arcs nest."""
        return 0.3 + 0.45 * (self.target - self.source)

    def clash(self, source: int, target: int) -> int:
        """What an arc between these states, same side, does: 2 covers this one, 1 crosses it."""
        a, b = sorted(((self.source, self.target), (source, target)))
        return 2 if a == b else int(a[0] < b[0] < a[1] < b[1])


@checked(SettingsError)
def draw(genotype: Genotype, path: str | Path, title: str | None = None) -> None:
    """Draw both cells of a genotype: states in a row, one arc for each operation.

    Args:
        genotype: what to draw.
        path: file to write; its suffix is .png or .svg.
        title: a line above the cells.

    Raises:
        SettingsError: if the suffix is another one, or the file cannot be written.
        ModuleNotFoundError: if matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg"):
        raise SettingsError(f"draw(path): the file must end in .png or .svg, got {str(path)!r}.")
    try:
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("draw needs matplotlib: pip install matplotlib") from error
    cells = [
        ("Normal cell", _arcs(genotype.normal), genotype.normal_concat),
        ("Reduction cell", _arcs(genotype.reduce), genotype.reduce_concat),
    ]
    extents = [_extent(arcs) for _, arcs, _ in cells]
    heights = [top - bottom for bottom, top in extents]
    width = _COLUMN * (max(len(arcs) for _, arcs, _ in cells) // 2 + 1) + 1.4
    figure = Figure(figsize=(0.75 * width, 0.75 * sum(heights) + 1.5), layout="constrained")
    if title is not None:
        figure.suptitle(title, fontsize=14, fontweight="bold", color=_INK)
    panels = figure.subplots(2, 1, height_ratios=heights)
    for axes, (name, arcs, concat), extent in zip(panels, cells, extents, strict=True):
        axes.set_title(name, loc="left", fontsize=11, fontweight="bold", color=_INK)
        axes.set_aspect("equal")
        axes.set_axis_off()
        axes.set_xlim(-0.7, width - 0.7)
        axes.set_ylim(*extent)
        _draw_cell(axes, arcs, concat)
    used = dict(_family(operation) for operation, _ in genotype.normal + genotype.reduce)
    handles = [Line2D([], [], color=c, linewidth=2.5, label=name) for name, c in used.items()]
    ring = {"marker": "o", "markersize": 9, "markeredgecolor": _EDGE, "linestyle": "none"}
    handles.append(Line2D([], [], color=_OUTPUT, label="in the output", **ring))
    columns = min(3, len(handles))  # more would not fit the width of a small cell
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:].lower(), dpi=150)
    with picture.getbuffer() as content:
        write_file(path, content)


def _family(operation: str) -> tuple[str, str]:
    return next(family for prefix, family in _FAMILIES.items() if operation.startswith(prefix))


def _arcs(pairs: tuple[tuple[str, int], ...]) -> list[_Arc]:
    """Give every arc the side on which it clashes with fewer arcs, the shortest arcs first."""
    wanted = [
        (operation, source, index // 2 + 2) for index, (operation, source) in enumerate(pairs)
    ]
    arcs: list[_Arc] = []
    for operation, source, target in sorted(wanted, key=lambda arc: (arc[2] - arc[1], arc[1])):
        cost: dict[int, tuple[int, int]] = {}
        for side in (1, -1):
            there = [arc.clash(source, target) for arc in arcs if arc.side == side]
            cost[side] = (sum(there), len(there))
        arcs.append(_Arc(operation, source, target, min(cost, key=cost.__getitem__)))
    return arcs


def _extent(arcs: list[_Arc]) -> tuple[float, float]:
    """Lowest and highest point of a cell's picture."""
    ends = [arc.side * arc.height for arc in arcs]
    return min(0.0, *ends) - 0.45, max(0.0, *ends) + 0.45


def _draw_cell(axes: Axes, arcs: list[_Arc], concat: tuple[int, ...]) -> None:
    for arc in arcs:
        _draw_arc(axes, arc)
    for state in range(len(arcs) // 2 + 2):
        axes.annotate(
            ("c(k-2)", "c(k-1)")[state] if state < 2 else str(state),
            (_COLUMN * state, 0),
            ha="center",
            va="center",
            fontsize=10,
            color=_INK,
            bbox={
                "boxstyle": "round,pad=0.45",
                "facecolor": _OUTPUT if state in concat else _INNER,
                "edgecolor": _EDGE,
            },
            zorder=4,
        )


def _draw_arc(axes: Axes, arc: _Arc) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    start, end = _COLUMN * arc.source, _COLUMN * arc.target
    colour = _family(arc.operation)[1]
    inset = 0.12 * (end - start)
    edge = 0.24 * arc.side
    control = (4 * arc.side * arc.height - edge) / 3  # the cubic curve reaches 3/4 as far
    points = [(start, edge), (start + inset, control), (end - inset, control), (end, edge)]
    curve = Curve(points, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
    style = {"arrowstyle": "-|>", "mutation_scale": 13, "linewidth": 1.8}
    axes.add_patch(FancyArrowPatch(path=curve, color=colour, zorder=1, **style))
    axes.annotate(
        _LABELS[arc.operation],
        ((start + end) / 2, arc.side * arc.height),
        ha="center",
        va="center",
        fontsize=9,
        color=colour,
        bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"},
        zorder=3,
    )

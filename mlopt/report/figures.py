"""Charts as inline SVG: they take their colours and fonts from the page, so that it can be dark."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Line", "dot_chart", "line_chart"]

# Matplotlib draws with these stand-ins; the SVG then names the page's colours instead.
_COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--rule)",
    "#040404": "var(--band)",
    "#050505": "var(--s1)",
    "#060606": "var(--s2)",
    "#070707": "var(--s3)",
    "#080808": "var(--s4)",
}
INK, MUTED, RULE, BAND, *SERIES = _COLOURS
DASHES = ["-", (0, (4, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5))]
POINTS = 120  # of one line; more are averaged, and shown as the band they span
FONT_SIZE = 8.0
LABEL_LENGTH = 24


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Args:
        label: the text at its end.
        x: positions.
        y: values; those that are not finite are left out.
        series: index of its colour and dash pattern; the same for the same run in every chart.
        until: positions up to here are drawn as grey dots: what is there means nothing yet.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    series: int = 0
    until: float = -math.inf

    @property
    def dash(self) -> Any:
        """Its pattern; a colour comes again with another one."""
        return DASHES[(self.series + self.series // len(SERIES)) % len(DASHES)]


def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    size: tuple[float, float] = (3.6, 2.2),
    y_range: tuple[float, float] | None = None,
    log: bool | None = None,
    context: Sequence[Line] = (),
) -> str:
    """Draw lines with a label at the end of each, if there is more than one.

    Args:
        lines: the lines. Long ones are averaged, and shown with the band that they span.
        x_label: what the horizontal axis shows, with its unit.
        y_label: what the vertical axis shows, with its unit.
        size: width and height in inches (of 72 units of the SVG).
        y_range: limits of the vertical axis; by default those of the values.
        log: make the vertical axis logarithmic; by default, if the values call for it.
        context: lines on common positions to show as a grey band from the lowest to the highest,
            with their mean dashed.

    Returns:
        An SVG element; empty if no line has a finite value.
    """
    thin = [(line, *_thin(line.x, line.y)) for line in lines]
    thin = [item for item in thin if item[1]]
    if not thin:
        return ""
    labels = [line.label for line, *_ in thin] if len(thin) > 1 else []

    def draw(figure: Any) -> None:
        right = 0.16 + 0.076 * max((len(_short(label)) for label in labels), default=0)
        axes = _axes(figure, size, left=0.5, right=right, bottom=0.4, top=0.1)
        if context:
            _draw_context(axes, context)
        for line, x, mean, low, high in thin:
            colour = SERIES[line.series % len(SERIES)]
            if any(a != b for a, b in zip(low, high, strict=True)):
                axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
            marker = {"marker": "o", "markersize": 2.6} if len(x) < 16 else {}
            dots = sum(place <= line.until for place in x)
            axes.plot(x[:dots], mean[:dots], ".", color=MUTED, markersize=2.6)
            rest = x[dots:], mean[dots:]
            axes.plot(*rest, color=colour, linestyle=line.dash, linewidth=1.5, **marker)
        values = [v for _, _, _, low, high in thin for v in (*low, *high)]
        if log or (log is None and min(values) > 0 and max(values) > 50 * min(values)):
            axes.set_yscale("log")
        if y_range:
            axes.set_ylim(*y_range)
        axes.margins(x=0.02)
        axes.set_xlabel(x_label, color=MUTED, labelpad=2)
        axes.set_ylabel(y_label, color=MUTED, labelpad=3)
        _ticks(axes.xaxis, axes.get_xscale(), 5, whole=True)
        _ticks(axes.yaxis, axes.get_yscale(), 4 if size[1] < 1.6 else 5)
        if labels:
            _label_ends(axes, [(line, mean[-1]) for line, _, mean, _, _ in thin], size)

    return _svg(draw, size, "; ".join([f"{y_label} over {x_label}", *labels]))


def dot_chart(
    names: Sequence[str],
    values: Sequence[float],
    errors: Sequence[float | None],
    *,
    x_label: str,
    texts: Sequence[str],
    series: Sequence[int | None],
    width: float = 4.2,
) -> str:
    """Draw one dot per row with its error bar; the axis is logarithmic if the values call for it.

    Args:
        names: labels of the rows, from the top.
        values: one number per row.
        errors: half length of each error bar, or None.
        x_label: what the axis shows, with its unit.
        texts: what to write beside each dot.
        series: colour of each row as in `Line`, or None for a row in grey.
        width: inches.

    Returns:
        An SVG element; empty if there are no rows.
    """
    if not values:
        return ""
    size = (width, 0.34 * len(values) + 0.62)
    spans = [(v - (e or 0.0), v + (e or 0.0)) for v, e in zip(values, errors, strict=True)]
    log = min(values) > 0 and max(values) > 6 * min(values)

    def draw(figure: Any) -> None:
        left = 0.2 + 0.066 * max(len(_short(name)) for name in names)
        axes = _axes(figure, size, left=left, right=0.25, bottom=0.42, top=0.1, grid="x")
        if log:
            axes.set_xscale("log")
        floor = min(values) * 0.5 if log else -math.inf
        for row, (value, span) in enumerate(zip(values, spans, strict=True)):
            index = series[row]
            colour = MUTED if index is None else SERIES[index % len(SERIES)]
            axes.axhline(row, color=RULE, linewidth=0.7, zorder=0)
            axes.plot([max(span[0], floor), span[1]], [row, row], color=colour, linewidth=2.2)
            axes.plot([value], [row], "o", color=colour, markersize=6.5)
            axes.annotate(
                texts[row],
                (value, row),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                color=INK if index is not None else MUTED,
                fontsize=FONT_SIZE,
            )
        axes.set_yticks(range(len(names)), [_short(name) for name in names], color=INK)
        axes.set_ylim(len(names) - 0.5, -0.75)
        low, high = min(max(span[0], floor) for span in spans), max(span[1] for span in spans)
        axes.set_xlim((low / 1.5, high * 1.6) if log else (min(low, 0), high * 1.12 or 1))
        _ticks(axes.xaxis, axes.get_xscale(), 6)
        axes.set_xlabel(x_label + (" (logarithmic)" if log else ""), color=MUTED, labelpad=2)

    rows = [f"{name}: {text}" for name, text in zip(names, texts, strict=True)]
    return _svg(draw, size, f"{x_label}; " + "; ".join(rows))


def _axes(
    figure: Any,
    size: tuple[float, float],
    *,
    left: float,
    right: float,
    bottom: float,
    top: float,
    grid: str = "y",
) -> Any:
    """Plain axes whose margins are given in inches: no box, a faint grid, quiet text."""
    width, height = size
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    axes = figure.add_axes(box)
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.tick_params(length=0, colors=MUTED, labelsize=FONT_SIZE - 0.5, pad=3, which="both")
    axes.grid(visible=True, axis=grid, color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def _ticks(axis: Any, scale: str, count: int, *, whole: bool = False) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if scale == "log":
        low, high = sorted(axis.get_view_interval())
        wide = high / low > 1000
        axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=12))
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(count, steps=[1, 2, 5, 10], integer=whole))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))


def _draw_context(axes: Any, context: Sequence[Line]) -> None:
    thinned = [_thin(line.x, line.y) for line in context]
    at: dict[float, list[float]] = {}
    for x, mean, *_ in thinned:
        for position, value in zip(x, mean, strict=True):
            at.setdefault(position, []).append(value)
    xs = sorted(at)
    axes.fill_between(
        xs, [min(at[x]) for x in xs], [max(at[x]) for x in xs], color=BAND, linewidth=0
    )
    means = [sum(at[x]) / len(at[x]) for x in xs]
    axes.plot(xs, means, color=MUTED, linewidth=0.9, linestyle=(0, (2, 1.5)))


def _label_ends(axes: Any, ends: Sequence[tuple[Line, float]], size: tuple[float, float]) -> None:
    """Write each label at the height where its line ends, moved apart where they would overlap."""
    to_axes = axes.transData + axes.transAxes.inverted()
    axes.autoscale_view()
    placed = sorted(
        ((to_axes.transform((line.x[-1], value))[1], line) for line, value in ends),
        key=lambda item: item[0],
    )
    gap = 0.15 / (size[1] - 0.5)
    heights: list[float] = []
    for height, _ in placed:
        heights.append(max(height, heights[-1] + gap) if heights else height)
    excess = max(0.0, heights[-1] - 1.0)
    for (_, line), height in zip(placed, heights, strict=True):
        axes.text(
            1.02,
            height - excess,
            _short(line.label),
            transform=axes.transAxes,
            color=SERIES[line.series % len(SERIES)],
            fontsize=FONT_SIZE,
            fontweight="bold",
            va="center",
        )


def _thin(
    x: Sequence[float], y: Sequence[float]
) -> tuple[list[float], list[float], list[float], list[float]]:
    """At most POINTS points: positions, mean, lowest and highest of each bin's finite values."""
    points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if len(points) <= POINTS:
        means = [b for _, b in points]
        return [a for a, _ in points], means, means, means
    bins = [
        points[i * len(points) // POINTS : (i + 1) * len(points) // POINTS] for i in range(POINTS)
    ]
    return (
        [sum(a for a, _ in bin_) / len(bin_) for bin_ in bins],
        [sum(b for _, b in bin_) / len(bin_) for bin_ in bins],
        [min(b for _, b in bin_) for bin_ in bins],
        [max(b for _, b in bin_) for bin_ in bins],
    )


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())


def _short(text: str) -> str:
    """A label that leaves room for the chart."""
    text = _printable(text)
    return text if len(text) <= LABEL_LENGTH else text[: LABEL_LENGTH - 1] + "…"


def _svg(draw: Callable[[Any], None], size: tuple[float, float], description: str) -> str:
    """Let `draw` fill a figure and make an element of it that can stand in a page with others."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "The report draws its charts with matplotlib: pip install matplotlib"
        ) from None

    description = _printable(description)
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": description,
        "font.size": FONT_SIZE,
        "text.parse_math": False,
        "axes.unicode_minus": True,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=size)
        figure.patch.set_visible(False)
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"font: ([^;\"]*?[\d.]+px) [^;\"]*", r"font: \1 var(--sans)", svg)
    svg = re.sub(r' id="(?!m|p[0-9a-f]{8})[^"]*"', "", svg)  # the others are not referred to
    svg = re.sub(r' xmlns:xlink="[^"]*"| version="[^"]*"', "", svg).replace("xlink:href", "href")
    for stand_in, colour in _COLOURS.items():
        svg = svg.replace(stand_in, colour)
    label = html.escape(description)
    box = f"0 0 {size[0] * 72:g} {size[1] * 72:g}"
    opening = f'<svg viewBox="{box}" role="img" aria-label="{label}">'
    return re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1).strip()

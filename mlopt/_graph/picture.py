"""The graph as a picture, and tables, for notebooks: HTML that follows the page's colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from .drawing import arrows
from .levels import Levels
from .problem import Problem

__all__ = ["paragraphs", "picture", "table"]

_ROW, _TOP = 44, 8  # heights, in pixels
_LETTER = 7.4  # its width
_MOST = 40  # letters of a label
_PLAIN = 'class="tex2jax_ignore"'  # two dollars in a notebook make no formula


def picture(graph: Levels) -> str:
    """A picture as SVG: a box for each node, the highest on top, and an arc from what each reads.

    Solid arcs pass gradients, dotted ones do not. All is drawn in the colour of the text around it.

    Args:
        graph: the graph.

    Returns:
        HTML.
    """
    nodes = list(reversed(graph.nodes))
    place = {node: _TOP + _ROW * i + _ROW / 2 for i, node in enumerate(nodes)}
    lines = {
        node: (_cut(graph.labels[node]), f"min over {_cut(', '.join(v.name for v in node.over))}")
        if isinstance(node, Problem)
        else (_cut(graph.labels[node]), "signal")
        for node in nodes
    }
    width = 24 + _LETTER * max(len(text) for both in lines.values() for text in both)
    bend = 18 * max(1, len(nodes) - 1)
    height = 2 * _TOP + _ROW * len(nodes)
    parts = []
    for node in nodes:
        y, (label, what) = place[node] - _ROW / 2 + 4, lines[node]
        corner = 3 if isinstance(node, Problem) else 18
        parts.append(
            f'<rect x="1" y="{y:g}" width="{width:g}" height="{_ROW - 8}" rx="{corner}" '
            'fill="none" stroke="currentColor"/>'
            f'<text x="{1 + width / 2:g}" y="{y + 15:g}" text-anchor="middle" '
            f'font-weight="bold">{escape(label)}</text>'
            f'<text x="{1 + width / 2:g}" y="{y + 30:g}" text-anchor="middle">{escape(what)}</text>'
        )
    for origin, reader, name, passes in arrows(graph):
        a, b, x = place[origin] - 5, place[reader] + 5, width + 1
        out = x + 18 * abs(b - a) / _ROW + 16
        dots = "" if passes else ' stroke-dasharray="2 3"'
        how = "passes gradients" if passes else "passes no gradient"
        said = f"{graph.labels[reader]} reads {name} of {graph.labels[origin]}; it {how}"
        parts.append(
            f'<path d="M{x:g} {a:g}C{out:g} {a:g} {out:g} {b:g} {x + 5:g} {b:g}" fill="none" '
            f'stroke="currentColor"{dots}><title>{escape(said)}</title></path>'
            f'<path d="M{x:g} {b:g}l7 -3.5v7z" fill="currentColor"/>'
        )
    width += bend + 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {_PLAIN} width="{width:g}" '
        f'height="{height:g}" font-family="sans-serif" font-size="12" fill="currentColor" '
        f'style="max-width:100%;height:auto" viewBox="0 0 {width:g} {height:g}">'
        f"<title>{escape(str(graph))}</title>{''.join(parts)}</svg>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in the colours of the page; what looks like a number stands on the right.

    Args:
        head: names of the columns.
        rows: as many cells.

    Returns:
        HTML.
    """
    names = "".join(f'<th scope="col" style="text-align:left">{_text(name)}</th>' for name in head)
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return (
        f'<table {_PLAIN} style="color:inherit"><thead><tr>{names}</tr></thead>'
        f"<tbody>{lines}</tbody></table>"
    )


def paragraphs(texts: Iterable[str]) -> str:
    """Sentences below one another.

    Args:
        texts: plain text.

    Returns:
        HTML.
    """
    return "".join(f"<p {_PLAIN}>{_text(text)}</p>" for text in texts)


def _cell(value: object) -> str:
    side = "right" if isinstance(value, int | float) else "left"
    return f'<td style="text-align:{side}">{_text(str(value))}</td>'


def _text(text: str) -> str:
    return escape(text).replace("\n", "<br>")


def _cut(text: str) -> str:
    return text if len(text) <= _MOST else f"{text[: _MOST - 1]}…"

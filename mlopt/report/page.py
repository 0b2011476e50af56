"""The page around a report: its style, and the few pieces of HTML that sections are made of."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["card", "escape", "fold", "grid", "page", "picture", "section", "table"]

_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".gif": "image/gif",
    ".svg": "image/svg+xml",
}

# The series are told apart by dash patterns too; the colours stay apart for colour-blind readers.
_STYLE = """
:root {
  color-scheme: light dark;
  --paper: #faf9f6; --card: #ffffff; --ink: #1c2127; --muted: #626b76; --rule: #e2e0d9;
  --band: #e9e7e1; --s1: #0064a6; --s2: #c04a00; --s3: #00795a; --s4: #93478a;
  --sans: "Inter", system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  --serif: "Charter", "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif;
  --mono: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, monospace;
}
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171b; --card: #1b1f25; --ink: #e8e6e1; --muted: #9aa3ae; --rule: #2d333b;
  --band: #2a3038; --s1: #62b5f2; --s2: #f2995c; --s3: #4fcaa2; --s4: #d79acb;
  }
  /* Drawings on white become drawings on the card, in colours of the same hue. */
  figure img:not(.pixels) { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 var(--sans); font-feature-settings: "tnum"; }
main { max-width: 1120px; margin: 0 auto; padding: 56px 28px 40px; }
h1, h2 { font-family: var(--serif); font-weight: 600; line-height: 1.15; text-wrap: balance; }
h1 { font-size: clamp(2rem, 4.4vw, 3rem); margin: 0 0 .5em; letter-spacing: -.012em; }
h2 { font-size: 1.65rem; margin: 0 0 .3em; }
h2 + .split, h2 + div { margin-top: 1.1em; }
h3 { font-size: .95rem; font-weight: 600; margin: 0 0 .5em; overflow-wrap: anywhere; }
p { margin: 0 0 1em; max-width: 68ch; }
section { margin-top: 64px; padding-top: 28px; border-top: 1px solid var(--rule); }
.eyebrow { color: var(--muted); font-size: .82rem; letter-spacing: .07em; margin: 0 0 14px; }
.lead { font-size: 1.16rem; line-height: 1.5; }
.how { color: var(--muted); font-size: .93rem; margin-bottom: 1.5em; }
.hero { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1.12fr); gap: 40px;
  align-items: center; }
.big { font: 600 4.4rem/1 var(--serif); color: var(--s1); margin: 28px 0 6px;
  letter-spacing: -.02em; }
.big small { font-size: 1.35rem; color: var(--muted); letter-spacing: 0; font-weight: 400; }
.grid { display: grid; gap: 20px;
  grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); }
.grid.small { gap: 14px 12px; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.grid.wide { grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); }
.split { display: grid; gap: 36px; grid-template-columns: minmax(0, 1.25fr) minmax(0, 1fr);
  align-items: start; }
figure { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 14px 14px 10px; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; }
figure img { display: block; width: 100%; height: auto; border-radius: 5px; }
figure img.pixels { image-rendering: pixelated; }
figure .how { font-size: .85rem; margin: 6px 0 0; }
.small figure { padding: 9px 8px 5px; border-radius: 8px; }
.small h3 { font-size: .84rem; margin: 0 0 .2em 4px; }
.hero figure { border: 0; background: none; padding: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
tbody th { color: inherit; font-size: inherit; font-weight: inherit; line-height: inherit; }
th, td { padding: 9px 16px 9px 0; text-align: left; border-bottom: 1px solid var(--rule);
  vertical-align: top; }
thead th { color: var(--muted); font-size: .82rem; font-weight: 500; line-height: 1.3;
  vertical-align: bottom; }
th.number, td.number { text-align: right; }
tbody tr.first { font-weight: 650; }
.facts th { color: var(--muted); width: 15em; }
.facts th, .facts td { font-size: .9rem; padding: 5px 16px 5px 0; overflow-wrap: anywhere; }
ul { padding-left: 1.1em; max-width: 68ch; }
li { margin: .25em 0; }
details { border-bottom: 1px solid var(--rule); padding: 12px 0; }
summary { cursor: pointer; font-weight: 600; }
details > *:not(summary) { margin-top: 12px; }
pre { font: .84rem/1.5 var(--mono); background: var(--card); border: 1px solid var(--rule);
  border-radius: 8px; padding: 14px; white-space: pre-wrap; overflow-wrap: anywhere; }
.state { border-left: 4px solid var(--s2); padding: 2px 0 2px 14px; }
.state.running { border-color: var(--s3); }
:focus-visible { outline: 2px solid var(--s1); outline-offset: 3px; }
footer { margin-top: 56px; color: var(--muted); font-size: .85rem; }
@media (max-width: 860px) {
  main { padding-top: 32px; }
  .hero, .split { grid-template-columns: minmax(0, 1fr); }
  .grid.wide { grid-template-columns: minmax(0, 1fr); }
}
/* On a phone each row of a table is a block of its own, with the heads beside the values. */
@media (max-width: 640px) {
  main { padding: 28px 16px; }
  .hero { gap: 20px; }
  .rows thead { position: absolute; width: 1px; height: 1px; overflow: hidden;
    clip-path: inset(50%); }
  table, tbody, tr, th, td { display: block; }
  tr { border-bottom: 1px solid var(--rule); padding: 10px 0; }
  tbody th, td, .facts th, .facts td { border: 0; padding: 2px 0; width: auto; }
  .rows tbody th { font-weight: 650; overflow-wrap: anywhere; }
  .rows td { display: flex; justify-content: space-between; gap: 20px; }
  .rows td::before { content: attr(data-head); color: var(--muted); font-weight: 400;
    font-size: .88rem; text-align: left; }
}
@media print { section { break-inside: avoid-page; } body { background: #fff; } }
"""

# Whatever a file of the run contains, the page loads nothing and runs nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def escape(value: object) -> str:
    """Text for HTML: what does not print is dropped, what means something to HTML is escaped."""
    text = str(value)
    return html.escape("".join(c for c in text if c.isprintable() or c in "\n\t"))


def page(title: str, body: Iterable[str], footer: str, *, again: int = 0) -> str:
    """A whole page.

    Args:
        title: plain text.
        body: pieces of HTML.
        footer: plain text.
        again: seconds after which a browser loads it again; 0 for never.

    Returns:
        The document.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        + (f'<meta http-equiv="refresh" content="{again:d}">\n' if again else "")
        + f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + f"\n<footer>{escape(footer)}</footer>\n</main>\n</body>\n</html>\n"
    )


def section(title: str, how_to_read: str, *parts: str) -> str:
    """A section with its heading; nothing, if none of its parts has anything.

    Args:
        title: plain text.
        how_to_read: plain text.
        *parts: pieces of HTML.

    Returns:
        HTML.
    """
    content = "\n".join(part for part in parts if part)
    if not content:
        return ""
    how = f'<p class="how">{escape(how_to_read)}</p>\n' if how_to_read else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{how}{content}\n</section>"


def card(title: str, content: str) -> str:
    """A figure with a heading; nothing, if it has no content."""
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return f"<figure>{heading}{content}</figure>" if content else ""


def grid(cards: Iterable[str], kind: str = "") -> str:
    """Cards in as many columns as fit; nothing, if there are none."""
    content = "\n".join(item for item in cards if item)
    return f'<div class="{escape(f"grid {kind}".strip())}">\n{content}\n</div>' if content else ""


def picture(path: Path, description: str, *, pixels: bool = False) -> str:
    """A picture inside the page; an SVG is shown as a picture too, so that nothing in it can run.

    Args:
        path: the file.
        description: plain text.
        pixels: enlarge without smoothing.

    Returns:
        HTML.
    """
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    kind = ' class="pixels"' if pixels else ""
    source = f"data:{_TYPES[path.suffix.lower()]};base64,{data}"
    return f'<img{kind} alt="{escape(description)}" src="{source}">'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, facts: bool = False) -> str:
    """A table of plain text.

    Args:
        heads: headings; columns without one are not shown as numbers.
        rows: cells; every column but the first is aligned to the right.
        facts: names and their values instead: no headings, nothing aligned to the right.

    Returns:
        HTML, empty without rows.
    """
    if not rows:
        return ""
    kind = "" if facts else ' class="number"'
    names = [escape(head) for head in heads or [""] * len(rows[0])]
    body = "\n".join(
        ("<tr" if facts or index else '<tr class="first"')
        + f' role="row"><th scope="row" role="rowheader">{escape(row[0])}</th>'
        + "".join(
            f'<td{kind} role="cell"'
            + ("" if facts else f' data-head="{name}"')
            + f">{escape(cell)}</td>"
            for name, cell in zip(names[1:], row[1:], strict=True)
        )
        + "</tr>"
        for index, row in enumerate(rows)
    )
    head = "".join(
        f'<th scope="col" role="columnheader"{kind if place else ""}>{name}</th>'
        for place, name in enumerate(names)
    )
    top = f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>\n' if heads else ""
    # With the roles said, it stays a table for a screen reader when its rows are blocks.
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="table">'
        f'<table role="table" class="{"facts" if facts else "rows"}">\n{top}'
        f'<tbody role="rowgroup">\n{body}\n</tbody>\n</table></div>'
    )


def fold(title: str, content: str) -> str:
    """A part that is closed until it is clicked; nothing, if it has no content."""
    if not content:
        return ""
    return f"<details>\n<summary>{escape(title)}</summary>\n{content}\n</details>"

"""The graph as text and as a Mermaid flowchart."""

from __future__ import annotations

from collections.abc import Iterator

from .brief import brief
from .levels import Levels
from .node import Node
from .problem import Problem
from .stacking import members

__all__ = ["arrows", "mermaid", "text"]


def text(graph: Levels) -> str:
    """One line a node, lowest first: what it is, what it reads, and through what it is steered.

    Args:
        graph: the graph.

    Returns:
        Lines in the order of the list.
    """
    width = max(len(label) for label in graph.labels.values())
    names = {p: ", ".join(v.name for v in p.over) for p in graph.problems}
    column = max([len(n) for n in names.values()] + [len("signal") - len(" = argmin")])
    lines = []
    for node in graph.nodes:
        what = f"{names[node]:{column}} = argmin" if isinstance(node, Problem) else "signal"
        line = f"{graph.labels[node]:{width}}  {what:{column + 9}}"
        if given := _given(node):
            line += f"  given {given}"
        if isinstance(node, Problem):
            if through := _through(graph, node):
                line += f"  through {through}"
            if game := graph.games.get(node):
                others = ", ".join(graph.labels[p] for p in game.players if p is not node)
                line += f"  in a game with {others}"
            elif not graph.staged(node):
                line += "  nested: " + ", ".join(graph.labels[n] for n in graph.needed(node)[1:])
            if any(node in s.nodes for s in graph.sweeps.values()) or graph.methods[node].traced:
                line += f"  by {brief(graph.methods[node])}"
        if others := [m for m in members(graph, node) if m is not node]:
            line += f"  stacked with {', '.join(graph.labels[m] for m in others)}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def _given(node: Node) -> str:
    own = set(node.over) if isinstance(node, Problem) else set()
    return ", ".join(
        f"stop({r.source.name})" if r.stopped else r.source.name
        for r in node.reads
        if r.source not in own
    )


def _through(graph: Levels, upper: Problem) -> str:
    """The anticipated nodes of a problem, as a nest of arrows; each is gone into once."""
    edges = graph.sweeps[upper].edges
    entered: set[Node] = set()
    pieces: list[str] = []
    waiting: list[Node | str] = []

    def enter(node: Node) -> None:
        below = [graph.source_node(node, source) for source in edges[node]]
        found = list(dict.fromkeys(n for n in below if n is not None))
        parts: list[Node | str] = [p for n in found for p in (", ", n)][1:]
        waiting.extend(reversed(["{", *parts, "}"] if len(found) > 1 else parts))

    enter(upper)
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            pieces.append(part)
            continue
        pieces.append(graph.labels[part])
        if part not in entered:
            entered.add(part)
            before = len(waiting)
            enter(part)
            if len(waiting) > before:
                pieces.append(" -> ")
    return "".join(pieces)


def mermaid(graph: Levels) -> str:
    """A Mermaid flowchart, highest level on top.

    Args:
        graph: the graph.

    Returns:
        Mermaid source.
    """
    lines = ["flowchart BT"]
    name = {node: f"n{i}" for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if isinstance(node, Problem):
            over = ", ".join(v.name for v in node.over)
            lines.append(f'    {name[node]}["{graph.labels[node]}<br/>min over {over}"]')
        else:
            lines.append(f'    {name[node]}(["{graph.labels[node]}"])')
    for origin, reader, read, passes in arrows(graph):
        arrow = "-->" if passes else "-.->"
        label = f"|{read}|" if isinstance(origin, Problem) else ""
        lines.append(f"    {name[origin]} {arrow}{label} {name[reader]}")
    return "\n".join(lines)


def arrows(graph: Levels) -> Iterator[tuple[Node, Node, str, bool]]:
    """Who reads from whom, of the nodes in their order.

    Args:
        graph: the graph.

    Yields:
        Whose value it is, who reads it, the name of what is read, and whether gradients pass.
    """
    passing = {
        (node, source)
        for s in graph.sweeps.values()
        for node, edge in s.edges.items()
        for source in edge
    }
    for node in graph.nodes:
        own = set(node.over) if isinstance(node, Problem) else set()
        for read in node.reads:
            if read.source in own:
                continue
            below = graph.source_node(node, read.source)
            origin = below or graph.owner[read.source]
            yield origin, node, read.source.name, (node, read.source) in passing

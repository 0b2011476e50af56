"""Which nodes are evaluated in parts of their batches, and whose values have parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .node import Node
from .signal import Signal

__all__ = ["lined_up", "taken_in_parts"]


def taken_in_parts(nodes: Sequence[Node]) -> frozenset[Node]:
    """The nodes that have a batch to split, or read the values of samples.

    Args:
        nodes: of a graph, lowest first.

    Returns:
        They.
    """
    found: set[Node] = set()
    waiting = True
    while waiting:  # a signal may come behind its reader
        waiting = False
        for node in nodes:
            reads = any(r.source in found and _lines(r.source) for r in node.reads)
            if node not in found and node.split is not False and (node.streams or reads):
                found.add(node)
                waiting = True
    return frozenset(found)


def lined_up(nodes: Sequence[Node], in_parts: frozenset[Node]) -> frozenset[Signal]:
    """The signals whose values have a row for each sample.

    Args:
        nodes: of a graph.
        in_parts: those that are evaluated in parts.

    Returns:
        They.
    """
    return frozenset(n for n in nodes if isinstance(n, Signal) and n in in_parts and _lines(n))


def _lines(source: Any) -> bool:
    return isinstance(source, Signal) and source.combine is None

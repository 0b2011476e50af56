"""`Place`: what the evaluations of one node have in common, wherever they are taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .._graph.node import Node
from .._graph.signal import Signal
from .binding import Binding, Slot, marks_of

__all__ = ["Place"]


@dataclass(slots=True)
class Place:
    """Where a node's modules stand, and where what else it reads goes.

    Attributes:
        bound: the modules that it reads, and its own memory, by their source.
        parts: of all these, as `Binding.parts`.
        first: a slot of each parameter that it reads.
        arguments: modules where they are passed, in lists or not, and None for all else.
        lists: which of them are lists.
        others: what else is passed: the source, the place among the arguments, that in a list.
        marked: whether a tensor among them has attributes of the user's.
    """

    bound: list[tuple[Any, Binding]]
    parts: list[dict[str, Any]]
    first: list[Slot]
    arguments: list[Any]
    lists: list[int]
    others: list[tuple[Any, int, int | None]]
    marked: bool

    @classmethod
    def of(cls, node: Node, bindings: Mapping[Any, Binding]) -> Place:
        """Find that of a node.

        Args:
            node: a problem or signal.
            bindings: of the modules of its graph, and of the memory of signals.

        Returns:
            It.
        """
        read = [
            (r.source, bindings[r.source]) for r in node.reads if _is_module(r.source, bindings)
        ]
        bound = [*read, (node, bindings[node])] if node in bindings else read
        arguments: list[Any] = []
        others: list[tuple[Any, int, int | None]] = []
        for i, argument in enumerate(node.arguments):
            values: list[Any] = []
            for j, source in enumerate(r.source for r in argument.reads):
                held = _is_module(source, bindings)
                values.append(bindings[source].module if held else None)
                if not held:
                    others.append((source, i, j if argument.is_list else None))
            arguments.append(values if argument.is_list else values[0])
        return cls(
            bound=bound,
            parts=[part for _, binding in bound for part in binding.parts],
            first=[slot for _, binding in read for slot in binding.first],
            arguments=arguments,
            lists=[i for i, argument in enumerate(node.arguments) if argument.is_list],
            others=others,
            marked=any(marks_of(getattr(source, "value", None)) for source, _, _ in others),
        )


def _is_module(source: Any, bindings: Mapping[Any, Binding]) -> bool:
    """Whether what is read is a module; of a signal its value is, and not its memory."""
    return source in bindings and not isinstance(source, Signal)

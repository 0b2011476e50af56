"""`one_shot`: what is said of an iterator in a batch, which the first evaluation would use up."""

from __future__ import annotations

from typing import Any

from .._containers.containers import ways
from .._containers.loaders import describe
from .._graph.node import Node

__all__ = ["one_shot"]


def one_shot(node: Node, batch: Any, iterator: Any) -> str:
    """What the error says of a batch that can be gone through once only.

    Args:
        node: whose batch it is.
        batch: what it is given.
        iterator: is the batch, or in it.

    Returns:
        The text.
    """
    several = node.data_is_tuple
    parts = {f"batch[{i}]": part for i, part in enumerate(batch)} if several else {"batch": batch}
    way, stream = next(
        (way, stream)
        for (name, part), stream in zip(parts.items(), node.streams, strict=True)
        for way, thing in ways(part, name)
        if thing is iterator
    )
    kind = type(iterator).__name__
    return (
        f"{node.name}: {way}, from {describe(stream.loader)}, is an iterator ({kind}), which can "
        "be gone through once only; a function is evaluated several times on one batch. Let the "
        "loader give a list of what it yields: list(zip(...)) instead of zip(...)."
    )

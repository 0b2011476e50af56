"""`versions`: whether tensors that a function read have been written in place."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from torch import Tensor

from .._graph.node import Node

__all__ = ["versions", "written_in_place"]

_version = attrgetter("_version")


def versions(tensors: Sequence[Tensor]) -> int:
    """A number that grows if one of them is written in place."""
    try:
        return sum(map(_version, tensors))
    except RuntimeError:  # what was made in inference mode has none
        return sum(t._version for t in tensors if not t.is_inference())


def written_in_place(node: Node) -> str:
    """What the error says of a function that writes what it reads."""
    return (
        f"{node.name} writes one of its arguments in place: a batch, a signal's value or a "
        "parameter, which others read after it. Compute a new tensor: x = x / 2 instead of "
        "x.div_(2); weights are written by the optimizer alone."
    )

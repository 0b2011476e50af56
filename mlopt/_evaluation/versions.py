"""`versions`: whether tensors that a function read have been written in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from .._graph.node import Node
from .binding import Binding

__all__ = ["versions", "written_among", "written_in_place"]

_version = attrgetter("_version")


def versions(tensors: Sequence[Tensor]) -> int:
    """A number that grows if one of them is written in place."""
    try:
        return sum(map(_version, tensors))
    except RuntimeError:  # what was made in inference mode has none
        return sum(t._version for t in tensors if not t.is_inference())


def written_in_place(node: Node, bindings: Mapping[Any, Binding]) -> str:
    """What the error says of a function that writes what it reads."""
    return _shortened(node, bindings, [read.source.name for read in node.reads]) or (
        f"{node.name} writes one of its arguments in place: a batch, a signal's value or a "
        "parameter, which it may only read. Compute a new tensor: x = x / 2 instead of x.div_(2); "
        "weights are written by the optimizer alone."
    )


def written_among(
    nodes: Iterable[Node], node: Node, bindings: Mapping[Any, Binding], written: Sequence[str]
) -> str:
    """The same where it is known what: the names of variables and signals, or "its batch"."""
    others = [
        n.name
        for n in nodes
        if n is not node
        and (
            any(read.source.name in written for read in n.reads)
            or ("its batch" in written and not set(n.streams).isdisjoint(node.streams))
        )
    ]
    verb = "reads" if len(others) == 1 else "read"
    return (
        _shortened(node, bindings, written)
        or f"{node.name} writes {' and '.join(written)} in place"
        + (f", which {' and '.join(others)} {verb} as well" if others else "")
        + ". Compute a new tensor: x = x / 2 instead of x.div_(2), or copy it before: "
        "x.clone(); weights are written by the optimizer alone."
    )


def _shortened(node: Node, bindings: Mapping[Any, Binding], written: Sequence[str]) -> str:
    """What it says where an embedding does so, which shortens the rows that it looks up.

    Args:
        node: whose function it is.
        bindings: of the modules of its graph.
        written: names of variables of which it may have written any.

    Returns:
        The message; empty where no embedding with `max_norm` is in these.
    """
    read = (r.source for r in node.reads)
    for source in (s for s in read if s in bindings and s.name in written):
        for name, part in bindings[source].module.named_modules():
            if isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.max_norm is not None:
                at = f"{source.name}.{name}" if name else source.name
                call = "embedding" if isinstance(part, nn.Embedding) else "embedding_bag"
                return (
                    f"{node.name} writes {at}.weight in place: it is of an embedding with "
                    f"max_norm={part.max_norm}, which shortens the rows that it looks up, and "
                    "weights are written by the optimizer alone. Shorten rows of a copy: "
                    f"F.{call}(i, {at}.weight.clone(), max_norm={part.max_norm}), and make the "
                    "embedding without max_norm."
                )
    return ""

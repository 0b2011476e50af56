"""What an objective returns."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .._errors import GraphError
from .._graph.node import Node
from .._graph.signal import Signal, split
from .._tensors import continuous

__all__ = ["differentiable", "split_loss"]


def differentiable(node: Node, result: Any) -> list[Tensor]:
    """What a node's result has gradients of: an objective's loss, or a signal's real tensors."""
    if isinstance(node, Signal):
        return [t for t in split(result, node.name).values() if continuous(t)]
    return [split_loss(result, node.name)[0]]


def split_loss(result: Any, name: str) -> tuple[Tensor, dict[str, Any]]:
    """An objective's return value as a scalar and its metrics."""
    loss, metrics = result if isinstance(result, tuple) and len(result) == 2 else (result, {})
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        got = (
            f"a tensor of shape {tuple(loss.shape)}"
            if isinstance(loss, Tensor)
            else type(loss).__name__
        )
        hint = "Is a .mean() missing?" if isinstance(loss, Tensor) else ""
        if isinstance(loss, dict):
            hint = "Return loss, metrics instead of a dict that holds both."
        raise GraphError(
            f"{name} returned {got}; an objective returns a scalar tensor, or (scalar, metrics). "
            f"{hint}".rstrip()
        )
    if loss.is_complex():
        raise GraphError(
            f"{name} returned a complex number, of which none is the least. Return a real one: "
            ".real, or .abs().square()."
        )
    if not isinstance(metrics, dict):
        raise GraphError(f"{name} returned (scalar, {type(metrics).__name__}); metrics are a dict.")
    for taken in ("loss", "gradient_norm"):
        if taken in metrics:
            raise GraphError(f"{name}: the metric {taken!r} is the engine's own; rename yours.")
    return loss, metrics

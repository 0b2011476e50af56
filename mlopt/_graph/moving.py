"""`move`: a batch on another device, in the containers in which it came."""

from __future__ import annotations

from typing import Any

import torch

from .._containers.containers import rebuilt

__all__ = ["move", "moves"]


def move(batch: Any, device: torch.device | None) -> Any:
    """A batch on another device; what came in is left as it is.

    Args:
        batch: whatever a loader gives.
        device: where to; None leaves the batch alone.

    Returns:
        The same with all moved that has a method `.to`: in mappings, lists, tuples, sets and
        dataclasses, of whatever type, which they keep. Everything else is passed on.
    """
    if device is None:
        return batch

    def leaf(held: Any) -> Any:
        if not moves(held):
            return held
        try:
            moved = held.to(device, non_blocking=True)
        except TypeError:  # it may not know the option
            moved = held.to(device)
        return held if moved is None else moved  # it has moved in place

    return rebuilt(batch, leaf, whole=moves)  # a packed sequence moves, and is a tuple


def moves(held: Any) -> bool:
    """Whether something can be moved: what has a method `.to`."""
    return callable(getattr(type(held), "to", None))

"""What evaluations are handed, and hand back, tensor by tensor."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["detached", "same"]


def detached(held: Any) -> Any:
    """A tensor without its graph; anything else as it is."""
    return held.detach() if isinstance(held, Tensor) else held


def same(held: Any) -> Any:
    """Itself."""
    return held

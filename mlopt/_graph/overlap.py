"""`overlap`: whether batches lie in the same memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from .containers import rebuilt

__all__ = ["overlap"]

#: What no loader can write over.
_ATOMS = (type(None), bool, int, float, complex, str, bytes, range, type)


def overlap(batches: Sequence[Any]) -> bool:
    """Whether two of these batches share memory, or an object that may change.

    Args:
        batches: whatever a loader gives.

    Returns:
        True if they do; what objects of unknown classes hold is not looked into.
    """
    known: set[Any] = set()
    for batch in batches if len(batches) > 1 else ():
        places = _places(batch)
        if known & places:
            return True
        known |= places
    return False


def _places(batch: Any) -> set[Any]:
    places: set[Any] = set() if isinstance(batch, (*_ATOMS, tuple)) else {id(batch)}

    def leaf(held: Any) -> Any:
        if isinstance(held, Tensor):
            try:
                places.add(("memory", held.untyped_storage().data_ptr()))
            except (RuntimeError, NotImplementedError):  # sparse ones have no such place
                places.add(id(held))
        elif isinstance(held, np.ndarray):
            while isinstance(held.base, np.ndarray):
                held = held.base
            places.add(("memory", held.__array_interface__["data"][0]))
        elif not isinstance(held, _ATOMS):
            places.add(id(held))
        return held

    rebuilt(batch, leaf)
    return places

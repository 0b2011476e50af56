"""`Start`: where a pass through a loader began, from which it can be gone through again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from .portable import arrays, portable

__all__ = ["Start", "load_others", "others_at", "save_others"]


@dataclass(frozen=True)
class Start:
    """Where a pass began: the index of its first batch, its number, and generators' states.

    Those of the loader's generators, and of Python's and NumPy's, by which a loader may shuffle.
    And which data loaders had workers already.
    """

    index: int
    number: int
    made: tuple[DataLoader, ...] = ()
    states: tuple[Any, ...] | None = None
    others: tuple[Any, Any] | None = None


@contextmanager
def others_at(states: tuple[Any, Any] | None) -> Iterator[None]:
    """Python's and NumPy's generators at these states for a block."""
    before = (random.getstate(), np.random.get_state())
    try:
        if states is not None:
            random.setstate(states[0])
            np.random.set_state(states[1])
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def save_others(states: tuple[Any, Any] | None) -> Any:
    """These states, as they are saved."""
    if states is None:
        return None
    python, numpy = states
    with others_at((python, numpy)):
        numpy = np.random.get_state(legacy=False)
    return {"python": python, "numpy": portable(numpy, "NumPy's generator")}


def load_others(saved: Any) -> tuple[Any, Any] | None:
    """The way back."""
    return None if saved is None else (saved["python"], arrays(saved["numpy"]))

"""`Start`: where a pass through a loader began, from which it can be gone through again."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from .lent import Lent
from .portable import arrays, portable
from .workers import Workers

__all__ = ["Start", "load_start", "others_at", "save_start", "set_others"]


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
        set_others(states)
        yield
    finally:
        set_others(before)


def set_others(states: tuple[Any, Any] | None) -> None:
    """Let Python's and NumPy's generators stand at these states; for None as they are."""
    if states is not None:
        random.setstate(states[0])
        np.random.set_state(states[1])


def save_start(start: Start, lent: Lent, workers: Workers) -> dict[str, Any]:
    """A start as it is saved, with what the same loader of another process can be told."""
    others = start.others
    if others is not None:
        with others_at(others):
            numpy = np.random.get_state(legacy=False)
        others = {"python": others[0], "numpy": portable(numpy, "NumPy's generator")}
    return {
        "index": start.index,
        "number": start.number,
        "workers": workers.places(start.made),
        "generators": lent.save(start.states),
        "others": others,
    }


def load_start(saved: Mapping[str, Any], lent: Lent, workers: Workers) -> Start:
    """The way back."""
    others = saved["others"]
    return Start(
        saved["index"],
        saved["number"],
        workers.at(saved["workers"]),
        lent.load(saved["generators"]),
        None if others is None else (others["python"], arrays(others["numpy"])),
    )

"""The generators of random numbers that belong to the process."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .._graph.portable import arrays, portable

__all__ = ["generators", "set_generators"]


def generators(cuda: Sequence[int]) -> dict[str, Any]:
    """The process's generators, from which loaders and callbacks may draw.

    Args:
        cuda: the devices whose are meant, too.

    Returns:
        Their states.
    """
    return {
        "python": random.getstate(),
        "numpy": portable(np.random.get_state(legacy=False), "NumPy's generator"),
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(i) for i in cuda],
    }


def set_generators(cuda: Sequence[int], saved: Mapping[str, Any]) -> None:
    """Put the generators back.

    Args:
        cuda: as of `generators`; there may be others.
        saved: what that gave.
    """
    random.setstate(saved["python"])
    np.random.set_state(arrays(saved["numpy"]))
    torch.set_rng_state(saved["torch"])
    for i, state in zip(cuda, saved["cuda"], strict=False):
        torch.cuda.set_rng_state(state, i)

"""States of generators of random numbers, of torch, Python and NumPy."""

from __future__ import annotations

import pickle
import random
from typing import Any

import numpy as np
import torch

from .._replay import derive_seed
from .portable import arrays, portable

__all__ = ["get_state", "load_state", "other_state", "save_state", "seed_of", "set_state"]


def get_state(generator: Any) -> Any:
    """Where a generator stands: of torch, `random.Random`, `RandomState`, or a `BitGenerator`."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.state


def set_state(generator: Any, state: Any) -> None:
    """Let it stand there."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.state = state


def save_state(state: Any) -> Any:
    """What `get_state` gave, as it is saved."""
    return portable(state, "the state of a generator")


def load_state(generator: Any, saved: Any) -> Any:
    """The way back, for such a generator."""
    return saved if isinstance(generator, torch.Generator | random.Random) else arrays(saved)


def seed_of(generator: Any) -> int | None:
    """Of a generator of torch. Nothing tells of others whether they were seeded or used."""
    return generator.initial_seed() if isinstance(generator, torch.Generator) else None


def other_state(generator: Any, state: Any, number: int) -> Any:
    """Another state of such a generator, made from its own and a number."""
    text = state.numpy().tobytes() if isinstance(state, torch.Tensor) else pickle.dumps(state)
    seed = derive_seed("lent", text.hex(), number)
    if isinstance(generator, torch.Generator):
        return torch.Generator(generator.device).manual_seed(seed).get_state()
    if isinstance(generator, random.Random):
        return random.Random(seed).getstate()
    if isinstance(generator, np.random.RandomState):
        return np.random.RandomState(seed % 2**32).get_state(legacy=False)
    return type(generator)(seed).state

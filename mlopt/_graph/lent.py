"""`Lent`: generators of random numbers that one way through a loader has for itself."""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .._replay import derive_seed

__all__ = ["Lent"]


class Lent:
    """Generators lent for a block, in which they go on from where the last one left them.

    After the block they are as they were before it. Their numbers begin from where they stand, and
    again from there at a pass before which somebody else has set them; but of a generator that
    somebody else of the same engine was lent before, others are made: else two would draw the same
    numbers.

    Args:
        generators: of torch, Python or NumPy.
        lenders: how many have been lent each of them, by its id; these are counted in.
    """

    def __init__(self, generators: Sequence[Any], lenders: dict[int, int]) -> None:
        self._generators = tuple(generators)
        self._order = tuple(lenders.get(id(g), 0) for g in self._generators)
        lenders.update((id(g), n + 1) for g, n in zip(generators, self._order, strict=True))
        #: Their states after the last block.
        self.states: tuple[Any, ...] = (None,) * len(self._generators)
        self._found = self.states  # outside of the blocks, when they were last looked at
        self._before: list[Any] = []

    def begin(self) -> None:
        """A pass begins: who was set anew since the last one did goes on from there."""
        found = tuple(_state(g) for g in self._generators)
        # A block puts them back, so another state is somebody else's.
        self.states = tuple(
            state if _same(old, new) else _other(g, new, n) if n else new
            for g, n, state, old, new in zip(
                self._generators, self._order, self.states, self._found, found, strict=True
            )
        )
        self._found = found

    def __enter__(self) -> None:
        self._before = [_state(g) for g in self._generators]
        for generator, state in zip(self._generators, self.states, strict=True):
            _set(generator, state)

    def __exit__(self, *exception: object) -> None:
        self.states = tuple(_state(g) for g in self._generators)
        self.close()

    def close(self) -> None:
        """Put the generators back, if an exception in the block's own end has kept it from that."""
        for generator, state in zip(self._generators, self._before, strict=False):
            _set(generator, state)
        self._before = []  # of a block that has ended


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.state


def _set(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.state = state


def _same(one: Any, two: Any) -> bool:
    """Whether two states of a generator are equal; those of NumPy's hold arrays."""
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_same(v, two[k]) for k, v in one.items())
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, two)
    return one == two


def _other(generator: Any, state: Any, number: int) -> Any:
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

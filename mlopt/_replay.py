"""Seeds, and generators that are lent to evaluations and then put back."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["Generators", "derive_seed", "replay"]


def derive_seed(*parts: object) -> int:
    """A seed from a run's seed and a place in it: equal parts, equal seed; else unrelated."""
    text = "\x1f".join([f"{part}" for part in parts]).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


class Generators:
    """The default generators of random numbers: put back, after a block, as they were before it.

    Blocks may be nested. The outermost one alone reads the states, which takes longer than seeding:
    a step opens one block around all of its evaluations.

    Args:
        cuda: indices of the CUDA devices whose generators are meant as well.

    Attributes:
        foreign: whether Python's and NumPy's global generators are meant as well, which takes
            longer than all else.
    """

    def __init__(self, cuda: Sequence[int] = ()) -> None:
        self.cuda = tuple(cuda)
        self.foreign = False
        self._others: tuple[Any, Any] | None = None
        self._depth = 0
        self._generators: list[torch.Generator] = []
        self._states: list[torch.Tensor] = []

    def __enter__(self) -> Generators:
        if self._depth == 0:
            generators = [torch.default_generator]
            generators += [torch.cuda.default_generators[i] for i in self.cuda]
            states = [*map(torch.Generator.get_state, generators)]
            others = (random.getstate(), np.random.get_state()) if self.foreign else None
            self._generators, self._states, self._others = generators, states, others
        self._depth += 1
        return self

    def seed(self, seed: int) -> None:
        """Seed them; only inside a block.

        They are seeded one by one: `torch.manual_seed` also queues work for devices that are never
        used, and formats a stack trace for each.

        Args:
            seed: any integer of 64 bits.
        """
        for generator in self._generators:
            generator.manual_seed(seed)
        if self._others is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)

    def __exit__(self, *exception: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.close()

    def close(self) -> None:
        """End the outermost block, if an exception in its own end has left it open."""
        self._depth = 0
        for generator, state in zip(self._generators, self._states, strict=True):
            generator.set_state(state)
        if self._others is not None:
            python, numpy = self._others
            random.setstate(python)
            np.random.set_state(numpy)
        self._generators, self._states, self._others = [], [], None


class replay(Generators):  # noqa: N801 - used as a function
    """Seed torch's default generators for a block, and put them back as they were.

    Args:
        seed: any integer of 64 bits.
        cuda: indices of the CUDA devices whose generators are seeded as well.
    """

    def __init__(self, seed: int, cuda: Sequence[int] = ()) -> None:
        super().__init__(cuda)
        self._seed = seed

    def __enter__(self) -> Generators:
        super().__enter__()
        self.seed(self._seed)
        return self

"""Seeds, and generators that are set for one evaluation and then put back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

__all__ = ["derive_seed", "replay"]


def derive_seed(*parts: object) -> int:
    """A seed from a run's seed and a place in it: equal parts, equal seed; else unrelated."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


class replay:  # noqa: N801 - used as a function; a generator would cost twice its time
    """Seed torch's default generators for a block, and put them back as they were.

    Generators are seeded one by one: `torch.manual_seed` also queues work for devices that are
    never used, and formats a stack trace for each.

    Args:
        seed: any integer of 64 bits.
        cuda: indices of the CUDA devices whose generators are seeded as well.
    """

    def __init__(self, seed: int, cuda: Sequence[int] = ()) -> None:
        self._seed = seed
        self._generators = [torch.default_generator]
        if cuda:
            self._generators += [torch.cuda.default_generators[i] for i in cuda]

    def __enter__(self) -> None:
        self._states = [generator.get_state() for generator in self._generators]
        for generator in self._generators:
            generator.manual_seed(self._seed)

    def __exit__(self, *exception: object) -> None:
        for generator, state in zip(self._generators, self._states, strict=True):
            generator.set_state(state)

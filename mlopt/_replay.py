"""Seeds, and generators that are set for one evaluation and then put back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

__all__ = ["derive_seed", "replay"]


def derive_seed(*parts: object) -> int:
    """A seed from a run's seed and a place in it: equal parts, equal seed; else unrelated."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


@contextmanager
def replay(seed: int, cuda: Sequence[int] = ()) -> Iterator[None]:
    """Seed torch's default generators for a block, and put them back as they were.

    Generators are seeded one by one: `torch.manual_seed` also queues work for devices that are
    never used, and formats a stack trace for each.

    Args:
        seed: any integer of 64 bits.
        cuda: indices of the CUDA devices whose generators are seeded as well.

    Yields:
        Nothing.
    """
    generators = [torch.default_generator, *(torch.cuda.default_generators[i] for i in cuda)]
    states = [g.get_state() for g in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)

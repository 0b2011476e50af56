"""`Traffic`: what goes between ranks, counted by what it is for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

__all__ = ["ONCE", "Traffic", "current", "purpose"]

#: The purpose of what is asked for when something is met for the first time.
ONCE = "first time"
_purpose = "gradients"


@contextmanager
def purpose(what: str) -> Iterator[None]:
    """What goes between ranks in a block is for this."""
    global _purpose
    before, _purpose = _purpose, what
    try:
        yield
    finally:
        _purpose = before


def current() -> str:
    """What it is for now."""
    return _purpose


class Traffic:
    """Collectives, by purpose.

    Attributes:
        collectives: how many there were.
        bytes: that a rank gave to them.
    """

    def __init__(self) -> None:
        self.collectives: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    @property
    def all(self) -> dict[str, tuple[int, int]]:
        """Collectives and bytes by purpose."""
        return {what: (n, self.bytes[what]) for what, n in self.collectives.items()}

    @property
    def per_purpose(self) -> dict[str, tuple[int, int]]:
        """Likewise, of what goes between ranks in every step."""
        return {what: n for what, n in self.all.items() if what not in (ONCE, "checksum")}

    def add(self, more: dict[str, tuple[int, int]], less: dict[str, tuple[int, int]]) -> None:
        """What has gone elsewhere between two times goes here, too: `all` of both."""
        for what, (count, size) in more.items():
            before = less.get(what, (0, 0))
            if count > before[0]:
                self.collectives[what] += count - before[0]
                self.bytes[what] += size - before[1]

    def note(self, tensor: Tensor) -> None:
        """A tensor goes between ranks."""
        self.collectives[_purpose] += 1
        self.bytes[_purpose] += tensor.numel() * tensor.element_size()

    def copy(self) -> Traffic:
        """What has gone so far."""
        return self.since(Traffic())

    def since(self, earlier: Traffic) -> Traffic:
        """What has gone between them.

        Args:
            earlier: what had gone then.

        Returns:
            The rest.
        """
        rest = Traffic()
        rest.collectives = self.collectives - earlier.collectives
        rest.bytes = self.bytes - earlier.bytes
        return rest

"""`Watch`: what has to be finite."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from operator import attrgetter

import torch
from torch import Tensor

from .._graph.node import Node
from .._tensors import spread

__all__ = ["Care", "Watch"]


@dataclass
class Care:
    """What an engine has learned: where the quick way of looking does not do.

    Attributes:
        norms: a norm has overflowed, of a gradient that is finite.
        masks: something that is not finite was there from the start, and may stay.
        unsolved: problems of which it has been said that their solver leaves much undone.
    """

    norms: bool = False
    masks: bool = False
    unsolved: set[Node] = field(default_factory=set)


class Watch:
    """Losses, norms, and flags of what is spoilt, in the order in which they are computed."""

    def __init__(self) -> None:
        self._watched: list[tuple[Node | None, str, Tensor]] = []

    def note(self, node: Node | None, what: str, scalar: Tensor) -> None:
        """Watch a scalar: a number that has to be finite, or a boolean that has to be false.

        Args:
            node: whose it is; None if that is not known.
            what: it is.
            scalar: on any device.
        """
        self._watched.append((node, what, scalar))

    def note_before(self, node: Node | None, what: str, scalar: Tensor) -> None:
        """Watch a scalar, as `note`, that is looked at before all others."""
        self._watched.insert(0, (node, what, scalar))

    def first(self, but: str = "") -> tuple[Node | None, str] | None:
        """The first that is not as it has to be: one host synchronisation for all.

        Args:
            but: what is passed over.

        Returns:
            Whose it is, and what; None if all are well.
        """
        values = _values([scalar for _, _, scalar in self._watched])
        found = [
            bool(value) if scalar.dtype is torch.bool else not math.isfinite(value)
            for (_, _, scalar), value in zip(self._watched, values, strict=True)
        ]
        own = (i for i, bad in enumerate(found) if bad and self._watched[i][1] != but)
        first = next(own, len(found))
        if (over := spread()) is not None:  # the first of what all ranks find among their rows
            first = over.first(first)
        return self._watched[first][:2] if first < len(found) else None


_is_here = attrgetter("is_cpu")


def _values(scalars: list[Tensor]) -> list[float]:
    """Those that are on the host are read there one by one, for which nothing waits."""
    if all(map(_is_here, scalars)):
        return [*map(Tensor.item, scalars)]
    here = iter(_values([t for t in scalars if t.device.type == "cpu"]))
    away = [t for t in scalars if t.device.type != "cpu"]
    device = away[0].device
    there = iter(torch.stack([t if t.device == device else t.to(device) for t in away]).tolist())
    return [next(here if t.device.type == "cpu" else there) for t in scalars]

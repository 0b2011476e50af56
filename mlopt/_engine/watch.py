"""`Watch`: what has to be finite."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._graph.node import Node

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

    def first(self) -> tuple[Node | None, str] | None:
        """The first that is not as it has to be: one host synchronisation for all.

        Returns:
            Whose it is, and what; None if all are well.
        """
        if not self._watched:
            return None
        # Those that are on the host cost nothing there, and on their way to a device would wait.
        here = [i for i, (_, _, t) in enumerate(self._watched) if t.device.type == "cpu"]
        away = [i for i, (_, _, t) in enumerate(self._watched) if t.device.type != "cpu"]
        values: dict[int, float] = {}
        for places in (here, away):
            if places:
                device = self._watched[places[0]][2].device
                scalars = [self._watched[i][2] for i in places]
                scalars = [t if t.device == device else t.to(device) for t in scalars]
                values.update(zip(places, torch.stack(scalars).tolist(), strict=True))
        for i, (node, what, scalar) in enumerate(self._watched):
            if values[i] if scalar.dtype is torch.bool else not math.isfinite(values[i]):
                return node, what
        return None

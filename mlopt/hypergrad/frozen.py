"""`Frozen`: the first-order method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._tensors import Key, Tensors
from .interface import AbstractHypergradient, Cost, Response

__all__ = ["Frozen"]

_NOTHING = Cost()  # made once: it is asked for in every step


@dataclass(frozen=True)
class Frozen(AbstractHypergradient):
    """Read the lower problem as it stands; no gradient passes: the first-order method.

        s(r) = w,    ds/dr = 0

    Also what a player of a game is to the other: the generator reads the discriminator `Frozen`.
    With the schedule `Sequential` readers see the update that this step has already committed.
    """

    @property
    def moves(self) -> bool:
        return False

    @property
    def responds(self) -> bool:
        return False

    @property
    def cost(self) -> Cost:
        return _NOTHING

    def check(self, name: str, optimizer: Any) -> None:
        del name, optimizer

    def solution(self, response: Response) -> Tensors:
        return response.value

    def pullback(self, response: Response, cotangent: Tensors, wanted: Sequence[Key]) -> Tensors:
        del response, cotangent, wanted
        return {}

"""`Imagined`: ranks that are not there, for what a step on them would cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .ranks import Begun, Ranks
from .traffic import Traffic

__all__ = ["Imagined"]


class Imagined(Ranks):
    """The first of so many ranks, the others of which do as this one does; nothing goes anywhere.

    Args:
        size: how many.
    """

    def __init__(self, size: int) -> None:
        self.rank, self.size, self.lost, self.traffic = 0, size, False, Traffic()
        self._group = self._control = lambda: None

    def _begin(
        self, collective: Callable[..., Any], own: Tensor, *others: Any, group: Any = None
    ) -> Begun:
        self.traffic.note(own)
        for tensors in others:
            for t in tensors:
                t.copy_(own)
        return Begun(None, False)

    def begin(self) -> None:
        """Nothing has to agree."""

    def wait(self, begun: Begun) -> None:
        """Nothing is under way."""

    def reached(self, device: torch.device) -> None:
        """Nobody else is waited for."""

    def tell(self, error: BaseException) -> None:
        """Nobody waits."""

    def listen(self) -> None:
        """Nobody has anything to say."""

    def _there(self, lightly_held: Callable[[], Any]) -> Any:
        """Nothing goes by a group."""

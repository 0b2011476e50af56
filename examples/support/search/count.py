"""What a stage of a search has taken, and last measured."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

import mlopt

from .search import Search


class Count(mlopt.Callback):
    """Counts the forward passes of a stage's networks, and its seconds; keeps what was validated.

    Args:
        search: the stage.

    Attributes:
        passes: so far; a tensor, for compiled code has a guard on a plain number.
    """

    def __init__(self, search: Search) -> None:
        self.search, self.passes = search, torch.zeros((), dtype=torch.int64)
        self._seconds, self._since = 0.0, None
        self._hooks: list[Any] = []

    @property
    def seconds(self) -> float:
        """Of all processes that have run the stage."""
        return self._seconds + (time.perf_counter() - self._since if self._since else 0.0)

    def on_start(self, engine: mlopt.Engine) -> None:
        def count(module: nn.Module, args: Any) -> None:
            self.passes.add_(1)

        self._since = time.perf_counter()
        self._hooks = [n.register_forward_pre_hook(count) for n in self.search.networks]

    def on_end(self, engine: mlopt.Engine) -> None:
        self._seconds, self._since = self.seconds, None
        for hook in self._hooks:
            hook.remove()

    def state_dict(self) -> dict[str, Any]:
        return {
            "passes": int(self.passes),
            "seconds": self.seconds,
            "validation": self.search.validation,
        }

    def load_state_dict(self, state: Any) -> None:
        self.passes.fill_(state["passes"])
        self._seconds = state["seconds"]
        self.search.validation = dict(state["validation"])

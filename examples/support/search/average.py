"""A generator's running average, kept during a search."""

from __future__ import annotations

from typing import Any

import mlopt
from mlopt.generators import ExponentialAverage


class Follow(mlopt.Callback):
    """Takes the generator of every step into its average.

    Args:
        average: of the generator.
    """

    def __init__(self, average: ExponentialAverage) -> None:
        self.average = average

    def on_step(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        if engine.skipped is None:
            self.average.update()

    def state_dict(self) -> dict[str, Any]:
        return self.average.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self.average.load_state_dict(state)

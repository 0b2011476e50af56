"""`EarlyStopping`: ends a run that gets no better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._arguments import checked, from_one, within
from .._errors import SettingsError
from .engine import Engine
from .measured import Measured, Mode, Of

__all__ = ["EarlyStopping"]


class EarlyStopping(Measured):
    """Ends the run when a metric has not become better for some measurements.

        engine.run(epochs=100, validate=test, callbacks=[mlopt.EarlyStopping("error", patience=5)])

    What is not a number is no better. A run that is resumed counts on, and one that had been ended
    so ends at once. The variables stay as they are in the end; `BestCheckpoint` keeps the best.

    Args:
        metric: its name.
        patience: how many measurements in a row may be no better; the last of them ends the run.
        mode: "min" where lower is better, or "max".
        min_delta: by how much a value has to be better to count.
        of: where it is looked for: "validation", "epoch" (its means) or "log" (logging steps).

    Attributes:
        best: the best value so far; None before the first.
        best_step: after which step it was measured.
        waited: measurements since then.

    Raises:
        SettingsError: an option is not what it must be.
    """

    @checked(SettingsError, patience=from_one, min_delta=within("[0, inf)"))
    def __init__(
        self,
        metric: str,
        *,
        patience: int = 5,
        mode: Mode = "min",
        min_delta: float = 0.0,
        of: Of = "validation",
    ) -> None:
        super().__init__(metric, mode, min_delta, of)
        self.patience, self.waited = patience, 0

    def on_start(self, engine: Engine) -> None:
        """End at once what had been ended."""
        super().on_start(engine)
        if self.waited >= self.patience:
            engine.stop()

    def _measured(self, engine: Engine, better: bool) -> None:
        if engine.steps == self._whole:  # after the last step: a longer run does not measure there
            return
        self.waited = 0 if better else self.waited + 1
        if self.waited >= self.patience:
            engine.stop()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.waited = state["waited"]

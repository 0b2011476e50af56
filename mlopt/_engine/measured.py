"""`Measured`: a callback that follows one metric, and knows its best value so far."""

from __future__ import annotations

import math
import warnings
import weakref
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

from .._errors import CapabilityWarning, SettingsError
from .engine import Callback, Engine
from .numbers import flat, scalar

__all__ = ["Measured", "Mode", "Of"]

Mode = Literal["min", "max"]
Of = Literal["validation", "epoch", "log"]


class Measured(Callback):
    """Follows one metric; what becomes of each of its values its subclasses say.

    Args:
        metric: its name.
        mode: whether lower values are better or higher ones.
        min_delta: by how much a value has to be better, to be a better one.
        of: "validation": what a validation returns; "epoch": the means of an epoch; "log": the
            numbers of logging steps.

    Attributes:
        best: the best value so far; None before the first.
        best_step: after which step it was measured.
    """

    def __init__(self, metric: str, mode: Mode, min_delta: float, of: Of) -> None:
        self.metric, self.mode, self.min_delta, self.of = metric, mode, min_delta, of
        self.best: float | None = None
        self.best_step = -1
        self._seen: dict[str, None] | None = {}  # names of other metrics, until it has come
        self._whole = -1  # after which step all was done
        self._of: weakref.ref[Engine] | None = None  # whose values it has seen

    @abstractmethod
    def _measured(self, engine: Engine, better: bool) -> None:
        """Its value was measured: is it the best so far?"""

    def on_start(self, engine: Engine) -> None:
        """Begin where all is done; refuse to go on from the values of another engine's run."""
        if self._of is not None and self._of() is not engine:
            raise SettingsError(
                f"{type(self).__name__}: callbacks= holds one that has followed {self.metric!r} in "
                "the run of another engine, and would count on from there. Make a new one for each."
            )
        self._whole = engine.steps

    def on_log(self, engine: Engine, metrics: dict[str, Any]) -> None:
        """Look, if it is a metric of logging steps."""
        if self.of == "log":
            self._look(engine, metrics)

    def on_epoch(self, engine: Engine, metrics: dict[str, Any]) -> None:
        """Look, if it is a mean of epochs."""
        if self.of == "epoch":
            self._look(engine, metrics)

    def on_validation(self, engine: Engine, metrics: dict[str, Any]) -> None:
        """Look, if it is one of validation."""
        if self.of == "validation":
            self._look(engine, metrics)

    def on_between(self, engine: Engine) -> None:
        """Say, once, that the metric was not among those that have come."""
        self._whole = engine.steps
        if self._seen:
            names, self._seen = ", ".join(self._seen), None
            where = {"validation": "validation", "epoch": "an epoch", "log": "a logging step"}
            warnings.warn(
                f"{type(self).__name__}: metric={self.metric!r} is not among the metrics of "
                f"{where[self.of]} so far: {names}. Give one of these, or another of=.",
                CapabilityWarning,
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        return {"metric": self.metric, "best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["metric"] != self.metric:
            raise SettingsError(
                f"{type(self).__name__}: metric={self.metric!r}, and the run that is resumed had "
                f"{state['metric']!r}. Give the same, or a new folder."
            )
        self.best, self.best_step = state["best"], state["best_step"]
        self._of = None

    def _look(self, engine: Engine, metrics: Mapping[str, Any]) -> None:
        found = dict(part for item in metrics.items() for part in flat(*item))
        value = scalar(found.get(self.metric))
        if value is None:
            if self._seen is not None:
                self._seen |= dict.fromkeys(found or ["none at all"])
            return
        self._seen, number, self._of = None, float(value), weakref.ref(engine)
        sign = 1 if self.mode == "min" else -1
        better = not math.isnan(number) and (
            self.best is None or sign * (self.best - number) > self.min_delta
        )
        if better:
            self.best, self.best_step = number, engine.steps
        self._measured(engine, better)

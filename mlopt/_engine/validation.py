"""`Validation`: calls a function every so many steps or epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .._arguments import checked, from_one, takes
from .._errors import SettingsError
from .engine import Callback, Engine
from .loop import returned

__all__ = ["Validation"]


class Validation(Callback):
    """Calls a function every so many steps, or epochs, and tells all callbacks and loggers.

        engine.run(steps=1000, callbacks=[mlopt.Validation(test, steps=100)])

    There may be several, each with a period of its own. `run(validate=)` is the same by epochs, and
    measures after the last step, too. Put modules into eval mode in the function, and back.

    Args:
        function: called without arguments; returns a dict of metrics, or nothing.
        steps: from one call to the next, counted from the first step of the engine; or
        epochs: likewise.

    Raises:
        SettingsError: not exactly one of steps and epochs is given, or the function takes
            arguments.
    """

    @checked(SettingsError, steps=from_one, epochs=from_one)
    def __init__(
        self,
        function: Callable[[], Mapping[str, Any] | None],
        *,
        steps: int | None = None,
        epochs: int | None = None,
    ) -> None:
        if (steps is None) == (epochs is None):
            raise SettingsError(
                f"Validation(steps={steps}, epochs={epochs}): give either steps= or epochs=."
            )
        if not takes(function):
            raise SettingsError(
                "Validation: function= is called without arguments, and this one asks for some. "
                "Give lambda: function(engine)."
            )
        self.function, self.steps, self.epochs = function, steps, epochs

    def on_step(self, engine: Engine, metrics: dict[str, Any]) -> None:
        """Call it, if it is time by steps."""
        if self.steps is not None and engine.steps % self.steps == 0:
            self._call(engine)

    def on_epoch(self, engine: Engine, metrics: dict[str, Any]) -> None:
        """Call it, if it is time by epochs."""
        if self.epochs is not None and engine.epoch % self.epochs == 0:
            self._call(engine)

    def _call(self, engine: Engine) -> None:
        found = returned(self.function(), "Validation: function=")
        observers: Any = engine._course.observers
        for observer in observers:
            observer.on_validation(engine, dict(found))

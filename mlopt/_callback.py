"""`Callback`: what a run tells its observers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._engine import Engine
    from ._errors import NonFiniteError

__all__ = ["Callback"]


class Callback:
    """Hooks of `Engine.run`; override those you need, each does nothing by itself.

    A callback may read everything of the engine, change learning rates, and end the run by
    `engine.stop()`. Metrics are keyed "problem/name".
    """

    def on_start(self, engine: Engine) -> None:
        """Before the first step."""

    def on_step(self, engine: Engine, metrics: dict[str, Any]) -> None:
        """After each step; the metrics are tensors on their devices, reading one synchronises."""

    def on_log(self, engine: Engine, metrics: dict[str, Any]) -> None:
        """At each logging step, with numbers (and lists of numbers for small signals)."""

    def on_epoch(self, engine: Engine, metrics: dict[str, Any]) -> None:
        """After each epoch, with each problem's mean loss over it ("problem/loss")."""

    def on_validation(self, engine: Engine, metrics: dict[str, Any]) -> None:
        """After each call of the validation function, with what it returned."""

    def on_skip(self, engine: Engine, error: NonFiniteError) -> None:
        """After a step of which nothing was committed, if the engine goes on."""

    def on_end(self, engine: Engine) -> None:
        """After the last step, also if an error ends the run."""

"""`Record`: what happens in a run, for its loggers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from .._arguments import stateful, takes
from .._errors import SettingsError, leave_out_failing, leaving_out
from .._graph.options import listed
from .._graph.portable import portable
from .numbers import is_picture, left_out_of, readable
from .resuming import numbered
from .stepper import Stepper

__all__ = ["Logger", "Record", "loggers_of"]

#: Where a row stands, which is no name of a metric.
_POSITION = ("phase", "step", "epoch")


class Logger(Protocol):
    """What `Engine.run(loggers=)` takes; those of `mlopt.loggers` have more methods.

    A logger may also have `log_image(row, name, image)`, and is then given metrics that are
    pictures; and `state_dict()` with `load_state_dict(state)`: where a run is resumed, it is given
    what the checkpoint has of it, and takes back what it was given since.
    """

    def log(self, row: dict[str, Any]) -> object:
        """Take a row: names and values, of which "step" and "epoch" say where it stands."""

    def close(self, status: Any) -> object:
        """The run has ended: "finished", "interrupted" or "failed"."""


class Record:
    """The hooks of a callback that gives rows to loggers; one that fails is left out, aloud.

    Args:
        loggers: who gets the rows.
    """

    def __init__(self, loggers: list[Any]) -> None:
        self.loggers = loggers
        self._named = list(numbered(loggers))
        self._told: set[str] = set()
        self._back: Mapping[str, Any] | None = None  # where the loggers go when the run starts

    def on_start(self, engine: Stepper) -> None:
        """Have the loggers go back to where they were: no callback has refused the run."""
        back, self._back = self._back or {}, None
        for name, logger in self._with_states():
            if name in back:
                with leaving_out(self.loggers, logger, "load_state_dict"):
                    logger.load_state_dict(back[name])

    def on_log(self, engine: Stepper, metrics: Mapping[str, Any]) -> None:
        """The numbers of a step."""
        self._row(engine, metrics)

    def on_epoch(self, engine: Stepper, metrics: Mapping[str, Any]) -> None:
        """The means of an epoch, which have names of their own."""
        self._row(engine, {f"epoch/{name}": value for name, value in metrics.items()})

    def on_validation(self, engine: Stepper, metrics: Mapping[str, Any]) -> None:
        """What a function of the user's returned, which can be anything."""
        numbers, rest = readable(metrics)
        pictures = self.pictures(rest)
        left_out_of("the logs", {n: v for n, v in rest.items() if n not in pictures}, self._told)
        self._row(engine, numbers)
        self.draw(engine, pictures)

    def pictures(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of some values that can be drawn, if there is a logger that draws.

        Args:
            values: by name.

        Returns:
            They.
        """
        if not any(hasattr(logger, "log_image") for logger in self.loggers):
            return {}
        return {name: value for name, value in values.items() if is_picture(value)}

    def draw(self, engine: Stepper, pictures: Mapping[str, Any]) -> None:
        """Give pictures to those who draw."""
        for name, value in pictures.items():
            leave_out_failing(self.loggers, "log_image", _position(engine), name, value)

    def state_dict(self) -> dict[str, Any]:
        """How far those loggers have come that can go back, by their classes."""
        if self._back is not None:
            return {**self._back}
        states = {}
        for name, logger in self._with_states():
            with leaving_out(self.loggers, logger, "state_dict"):
                states[name] = portable(logger.state_dict(), f"{name}.state_dict()")
        return states

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Where each goes back to that is there again, when the run starts."""
        self._back = state

    def close(self, status: str) -> None:
        """Tell how the run has ended."""
        leave_out_failing(self.loggers, "close", status)

    def _with_states(self) -> Iterator[tuple[str, Any]]:
        """Those that can go back, by the names that they had when all were there."""
        for name, logger in self._named:
            if stateful(logger) and any(logger is left for left in self.loggers):
                yield name, logger

    def _row(self, engine: Stepper, metrics: Mapping[str, Any]) -> None:
        named = {
            f"validation/{name}" if name in _POSITION else name: value
            for item in metrics.items()
            for name, value in _real(*item)
        }
        if named:
            row = {**_position(engine), **named}
            leave_out_failing(self.loggers, "log", row)


def loggers_of(loggers: Any) -> list[Any]:
    """The loggers of a run, all of which can be given rows.

    Args:
        loggers: what was given.

    Returns:
        They.

    Raises:
        SettingsError: one has no methods `log(row)` and `close(status)`.
    """
    found = listed("run", "loggers", loggers, "[JsonlLogger(path)]", SettingsError)
    for logger in found:
        methods = (getattr(logger, name, None) for name in ("log", "close"))
        if isinstance(logger, type) or not all(callable(m) and takes(m, None) for m in methods):
            raise SettingsError(
                f"run: loggers= holds {logger!r}; it takes objects with the methods log(row) and "
                "close(status), such as those of mlopt.loggers."
            )
    return list(found)


def _position(engine: Stepper) -> dict[str, int]:
    return {"step": engine.steps, "epoch": engine.epoch}


def _real(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A complex number, and a list of such, is two of real ones."""
    parts = value if isinstance(value, list) else [value]
    if any(isinstance(v, complex) for v in parts):
        for part in ("real", "imag"):
            found = [getattr(v, part) for v in parts]
            yield f"{name}/{part}", found if isinstance(value, list) else found[0]
    else:
        yield name, value

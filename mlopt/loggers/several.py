"""Several loggers as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlopt._arguments import checked, stateful
from mlopt._errors import SettingsError, leave_out_failing, leaving_out
from mlopt.loggers.rows import Status

__all__ = ["Several"]


class Several:
    """Gives everything to several loggers, for loops of your own; `Engine.run` takes a list.

    One that fails stops nothing: it is warned of once, and left out from then on. Pictures, tables
    and files go to those that take them.

    Args:
        loggers: objects with the methods `log(row)` and `close(status)`.

    Raises:
        SettingsError: one has no such methods.
    """

    @checked(SettingsError)
    def __init__(self, loggers: Sequence[Any]) -> None:
        for logger in loggers:
            if isinstance(logger, type) or not all(
                callable(getattr(logger, name, None)) for name in ("log", "close")
            ):
                raise SettingsError(
                    f"Several: loggers= holds {logger!r}; it takes objects with the methods "
                    "log(row) and close(status)."
                )
        self._loggers = list(loggers)
        self._named = [(f"{i} {type(x).__name__}", x) for i, x in enumerate(self._loggers)]

    @checked(SettingsError)
    def log(self, row: Mapping[str, object]) -> None:
        """Give a row to each.

        Args:
            row: names and values.
        """
        self._tell("log", row)

    @checked(SettingsError)
    def log_image(self, row: Mapping[str, object], name: str, image: Any) -> None:
        """Give a picture to those that show pictures.

        Args:
            row: whose step, or epoch, it belongs to.
            name: of it.
            image: (height, width), or (channels, height, width).
        """
        self._tell("log_image", row, name, image)

    @checked(SettingsError)
    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Give a table to those that show tables.

        Args:
            name: of it.
            rows: dicts of columns.
        """
        self._tell("log_table", name, rows)

    @checked(SettingsError)
    def log_file(self, path: str | Path) -> None:
        """Give a file to those that keep files.

        Args:
            path: of the file.
        """
        self._tell("log_file", path)

    def state_dict(self) -> dict[str, Any]:
        """How far those have come that can go back, by their places and classes."""
        states = {}
        for name, logger in self._with_states():
            with leaving_out(self._loggers, logger, "state_dict"):
                states[name] = logger.state_dict()
        return states

    @checked(SettingsError)
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have those go back to where they were that are here again.

        Args:
            state: of `state_dict`.
        """
        for name, logger in self._with_states():
            if name in state:
                with leaving_out(self._loggers, logger, "load_state_dict"):
                    logger.load_state_dict(state[name])

    def _with_states(self) -> Iterator[tuple[str, Any]]:
        for name, logger in self._named:
            if stateful(logger) and any(logger is left for left in self._loggers):
                yield name, logger

    @checked(SettingsError)
    def close(self, status: Status = "finished") -> None:
        """Close each.

        Args:
            status: how the run ended: "finished", "interrupted" or "failed".
        """
        self._tell("close", status)

    def _tell(self, method: str, *what: Any) -> None:
        leave_out_failing(self._loggers, method, *what)

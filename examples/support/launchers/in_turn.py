"""`InTurn`: cells in this process, one after another."""

from __future__ import annotations

from ..tables import Cell, Runner
from .launch import Ended


class InTurn:
    """Runs a cell in this process.

    Args:
        start: runs an example.
    """

    at_once: float = 1

    def __init__(self, start: Runner) -> None:
        self._start = start
        self._taken: list[Cell] = []

    def begin(self, cell: Cell, again: bool) -> None:
        """Take a cell, which `wait` runs."""
        del again
        self._taken.append(cell)

    def wait(self) -> Ended:
        cell = self._taken.pop()
        return Ended(cell, cell.attempt(self._start))

    def close(self) -> None:
        """A cell that is interrupted here has saved and ended."""

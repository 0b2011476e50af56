"""Cells in, states out as they end: what a launcher is, and how cells go through one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..tables import Cell

#: What a state is called where it does not say enough.
_SAID = {"running": "another process is at it", "half done": "interrupted"}


@dataclass(frozen=True)
class Ended:
    """A cell that no longer runs.

    Attributes:
        cell: which.
        state: what became of it: done, running (elsewhere), failed, half done (interrupted), or
            died, if its process was killed or fell.
        why: it died.
    """

    cell: Cell
    state: str
    why: str = ""


class Launcher(Protocol):
    """A place where cells are run.

    Attributes:
        at_once: how many it takes before one of them has to end.
    """

    at_once: float

    def begin(self, cell: Cell, again: bool) -> None:
        """Take a cell.

        Args:
            cell: to run.
            again: whether its process has died before.
        """
        ...

    def wait(self) -> Ended:
        """Wait for one of the cells that were taken; which of them, is open."""
        ...

    def close(self) -> None:
        """End what still runs, so that each cell saves, and wait for it."""
        ...


def launched(
    cells: Sequence[Cell], launcher: Launcher, retries: int = 0
) -> Generator[tuple[Cell, str], None, None]:
    """Run cells, and tell of each when it begins and ends.

    An evaluation waits until the search that it takes a genotype from has ended. A cell that died
    comes again, and goes on from its checkpoint. Whatever ends this closes the launcher.

    Args:
        cells: to run; a search stands before what evaluates it.
        launcher: where.
        retries: how often one that died is tried again.

    Yields:
        Each cell with what became of it, as it ends.
    """
    waiting, running = list(cells), dict[Path, Cell]()
    number = {cell.folder: n for n, cell in enumerate(cells, 1)}
    died = Counter[Path]()

    def tell(cell: Cell, what: str) -> None:
        print(f"[{number[cell.folder]} of {len(cells)}] {cell.title}: {what}", flush=True)

    try:
        while waiting or running:
            for cell in _ready(waiting, running):
                if len(running) >= launcher.at_once:
                    break
                waiting.remove(cell)
                running[cell.folder] = cell
                tell(cell, str(cell.folder))
                launcher.begin(cell, again=died[cell.folder] > 0)
            ended = launcher.wait()
            cell, state = running.pop(ended.cell.folder), ended.state
            if state == "died" and died[cell.folder] < retries:
                died[cell.folder] += 1
                tell(cell, f"{ended.why}; retry {died[cell.folder]} of {retries}")
                waiting.insert(0, cell)
                continue
            if state == "died":
                cell.fail(ended.why)
                state = "failed"
            tell(cell, f"failed: {cell.error()}" if state == "failed" else _SAID.get(state, state))
            yield cell, state
    finally:
        launcher.close()


def _ready(waiting: Sequence[Cell], running: dict[Path, Cell]) -> list[Cell]:
    """Those that need not wait for a search that is still to end."""
    unfinished = {cell.folder for cell in waiting} | running.keys()
    return [c for c in waiting if c.search is None or c.search.folder not in unfinished]

"""Whether a run goes on, was interrupted or has finished, by what its folder says."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mlopt._files import FINISHED, RUNNING, said
from mlopt.report.positions import number
from mlopt.report.run_files import METRICS, RESULT, state_of

__all__ = ["State"]

_WORDS = {"search": "the search", "search-epoch": "the search", "retrain": "the retraining"}


@dataclass(frozen=True)
class State:
    """Where a run stands.

    Attributes:
        name: "running", "interrupted" or "finished".
        place: the last row that it logged, in words; empty if there is none.
        logged: when that was.
    """

    name: str
    place: str = ""
    logged: str = ""

    @classmethod
    def read(cls, root: Path, rows: list[dict[str, Any]]) -> State:
        """What the folder of a run says.

        Args:
            root: the folder.
            rows: of its metrics, in the order they were written.

        Returns:
            The state.
        """
        with said(root, "read"):
            name = _name(root)
            when = (root / METRICS).stat().st_mtime if rows else 0.0
        logged = datetime.fromtimestamp(when, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        return cls(name, _place(rows), logged)

    @property
    def text(self) -> str:
        """It, for a reader of the report."""
        if self.name == FINISHED:
            return "The run has finished."
        at = f", in {self.place}" if self.place else ", before it logged anything"
        if self.name == RUNNING:
            logged = f" (logged {self.logged})" if self.place else ""
            at = f" and is in {self.place}{logged}" if self.place else at
            return f"The run goes on{at}. This page shows what there was when it was written."
        return f"The run was interrupted{at}. It has no result; below is what there was by then."


def _name(root: Path) -> str:
    """With a result it has finished, though its last report is written while it still goes on."""
    return FINISHED if (root / RESULT).is_file() else state_of(root)


def _place(rows: list[dict[str, Any]]) -> str:
    """The last row that says where it is."""
    for row in reversed(rows):
        phase, epoch, step = (
            str(row.get("phase")),
            number(row.get("epoch")),
            number(row.get("step")),
        )
        counters = {"epoch": epoch, "step": step}
        known = [f"{name} {value:g}" for name, value in counters.items() if value is not None]
        if known:
            return ", ".join([_WORDS.get(phase, f"the phase {phase}"), *known])
    return ""

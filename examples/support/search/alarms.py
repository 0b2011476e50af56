"""Signs that a search collapses: they are logged, and may end it."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import mlopt
from mlopt.nas import Alarm

from .learner import Learner
from .measures import MONITOR
from .search import Search


class Watch(mlopt.Callback):
    """Raises the alarms of a search, into its log; a collapse of the normal cell may end it.

    The architectures are then set back to the last epoch without an alarm of that kind.

    Args:
        search: what is watched.
        warmup: first epochs of the search that do not update the architecture.
        stop: whether to end the search (of this stage) at the first collapse.
    """

    def __init__(self, search: Search, warmup: int, stop: bool) -> None:
        self.search, self.stop = search, stop
        self.first = search.before + warmup
        self.kept: tuple[int, list[dict[str, Any]], dict[str, float]] | None = None
        self.note = ""  # why it ended the search

    def on_start(self, engine: mlopt.Engine) -> None:
        if self.note:
            engine.stop()

    def on_validation(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        found = self._alarms(metrics) if engine.epoch > self.first else []
        metrics["alarms"] = [alarm.text for alarm in found]
        if not self.stop or engine.epoch <= self.first:
            return
        learners = self.search.learners
        collapse = next((alarm.text for alarm in found if alarm.kind == "skips"), None)
        if collapse is not None:
            self._end(engine, learners, collapse)
        else:
            states = [copy.deepcopy(x.architecture.state_dict()) for x in learners]
            self.kept = engine.epoch, states, dict(self.search.validation)

    def _alarms(self, metrics: dict[str, Any]) -> list[Alarm]:
        """Of all learners, each with its name before the text."""
        found = []
        for learner in self.search.learners:
            own = {name: metrics.get(learner.key(name), math.nan) for name in _SIGNS}
            prefix = f"{learner.title}: " if learner.title else ""
            found += [Alarm(kind, prefix + text) for kind, text in MONITOR.alarms(own)]
        return found

    def _end(self, engine: mlopt.Engine, learners: Sequence[Learner], why: str) -> None:
        spent = self.search.spent
        note = f"The search ended early, after epoch {spent.epochs + engine.epoch}: {why}."
        if self.kept is None:
            note += " There was no epoch without that, so the result is that of this epoch."
        else:
            epoch, states, self.search.validation = self.kept
            for learner, state in zip(learners, states, strict=True):
                learner.architecture.load_state_dict(state)
            note += f" The result is that of epoch {spent.epochs + epoch}."
        self.note = note
        spent.notes.append(note)
        engine.stop()

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.kept, "note": self.note} if self.stop else {}

    def load_state_dict(self, state: Any) -> None:
        self.kept, self.note = state["kept"], state["note"]
        self.search.spent.notes += [self.note] if self.note else []


_SIGNS = ("skips/normal", "none/normal", "entropy/normal", "gap")

"""The progress bar of a run: its phase, its epoch, and the time that is left."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from tqdm import TqdmWarning

from .._errors import SettingsError
from .._graph.graph import Graph
from .stepper import Stepper

__all__ = ["Progress", "check_phases", "phase_at"]


class Progress:
    """A bar, where somebody can see one: in a terminal, or as a widget in a notebook.

    Args:
        engine: takes the steps.
        total: how many there are, if that is known.
        began: the step and the epoch at which the run has begun.
        epochs: how many there are, or None.
        phases: names of phases, by the label of the problem with whose start each begins.
        shown: whether a bar is wanted.
    """

    def __init__(
        self,
        engine: Stepper,
        total: int | None,
        began: tuple[int, int],
        epochs: int | None,
        phases: Mapping[str, str],
        shown: bool,
    ) -> None:
        step, self._first = began
        self._engine, self._epochs, self._phases = engine, epochs, phases
        at = {"total": total, "initial": engine.steps - step, "desc": self._where()}
        self._bar = _bar(shown, unit="step", **at)
        self.step = self._bar.update
        self.close = self._bar.close

    def begin_epoch(self) -> None:
        """Say which epoch it is, and which phase."""
        if not self._bar.disable:
            self._bar.set_description_str(self._where(), refresh=False)

    def _where(self) -> str:
        epoch, of = self._engine.epoch, self._epochs
        at = epoch - self._first + 1
        text = f"epoch {at}" if of is None else f"epoch {min(at, of)} of {of}"
        phase = phase_at(self._engine.graph, epoch, self._phases)
        return f"{phase}, {text}" if phase else text

    def say(self, text: str) -> None:
        """Put something behind the bar, such as a loss."""
        if not self._bar.disable:
            self._bar.set_postfix_str(text, refresh=False)


def phase_at(graph: Graph, epoch: int, names: Mapping[str, str]) -> str:
    """The phase of a run: named, or by the problems that have begun if others wait for their start.

    Args:
        graph: the graph.
        epoch: that stands.
        names: of phases, by the label of the problem with whose start each begins.

    Returns:
        The name of the phase that has begun last; "" if there is none and no problem waits.
    """
    begun = [p for p in graph.problems if p.start <= epoch]
    named = [p for p in begun if graph.labels[p] in names]
    if named:
        last = max(reversed(named), key=lambda p: p.start)  # of those of one start the highest
        return names[graph.labels[last]]
    if len(begun) == len(graph.problems):
        return ""
    return ", ".join(graph.labels[p] for p in begun)


def check_phases(graph: Graph, names: Mapping[str, str]) -> Mapping[str, str]:
    """The names of phases, each of which has a problem.

    Args:
        graph: the graph.
        names: as they were given to `run`.

    Returns:
        They.

    Raises:
        SettingsError: there is no such problem.
    """
    known = [graph.labels[p] for p in graph.problems]
    if wrong := [label for label in names if label not in known]:
        raise SettingsError(
            f"run: phases= names the problem {wrong[0]!r}; those of this graph are "
            f"{', '.join(known)}."
        )
    return names


def _bar(shown: bool, **options: Any) -> Any:
    """Of tqdm, which shows none where the output is no terminal; a notebook's widget is shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmWarning)  # a notebook without widgets has a bar of text
        from tqdm.autonotebook import tqdm
    if tqdm.__module__ == "tqdm.notebook":
        return tqdm(disable=not shown, **options)
    return tqdm(disable=None if shown else True, **options)

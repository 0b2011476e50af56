"""Where the rows of a run stand on the axis that all charts of a phase share: epochs completed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["number", "positions"]

#: No chart shows numbers beyond these: its axis would overflow.
_SMALLEST, _LARGEST = 1e-100, 1e100


def number(value: object) -> float | None:
    """The value as a float that a chart can show, or None if it is none."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST:
        return float(value) if abs(value) > _SMALLEST else 0.0
    return None


def positions(rows: Sequence[Mapping[str, Any]], *, each_epoch: bool) -> list[float]:
    """Epochs completed at each row; steps, if the rows know no epochs.

    Charts of some of the rows have a common axis only if their positions are those among all rows
    of the phase. An engine counts what is completed: a row with epoch 2 is after two epochs. Who
    logs indices counts from 0, and the row with epoch 0 is in the first.

    Args:
        rows: all rows of a phase.
        each_epoch: a row is about an epoch, not about a step in one.

    Returns:
        A number for each row.
    """
    epochs = [number(row.get("epoch")) for row in rows]
    steps = [number(row.get("step")) for row in rows]
    known = [epoch for epoch in epochs if epoch is not None]
    if len(known) < len(rows) or not rows:
        return [index if step is None else step for index, step in enumerate(steps)]
    if each_epoch:
        first = 1.0 if min(known) < 1 else 0.0
        return [epoch + first for epoch in known]
    counted = [step for step in steps if step is not None]
    return _by_steps(known, counted) if len(counted) == len(rows) else _by_rows(known)


def _by_steps(epochs: Sequence[float], steps: Sequence[float]) -> list[float]:
    """By where in its epoch each step is; an epoch begins where the first row says that it has."""
    indices = min(steps) == 0
    begins: dict[float, float] = {}
    for epoch, step in zip(epochs, steps, strict=True):
        begins[epoch] = min(step, begins.get(epoch, step))
    first, *later = sorted(begins)
    if first < 1:
        begins[first] = 0.0
    long = max(steps) + indices - begins[first]
    lengths = {}
    for epoch, following in zip([first, *later], later, strict=False):
        long = lengths[epoch] = (begins[following] - begins[epoch]) / (following - epoch)
    missing = first if indices else 0.0
    return [
        epoch - missing + min((step + indices - begins[epoch]) / (lengths.get(epoch, long) or 1), 1)
        for epoch, step in zip(epochs, steps, strict=True)
    ]


def _by_rows(epochs: Sequence[float]) -> list[float]:
    """By how many rows of its epoch there are up to each."""
    first, most = min(epochs), max(epochs.count(epoch) for epoch in set(epochs))
    seen: dict[float, int] = {}
    found = []
    for epoch in epochs:
        seen[epoch] = seen.get(epoch, 0) + 1
        found.append(epoch - first + seen[epoch] / most)
    return found

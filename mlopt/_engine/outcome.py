"""What a step did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .._graph.problem import Problem
from .._tensors import Tensors

__all__ = ["Outcome"]


@dataclass
class Outcome:
    """What a step did.

    Attributes:
        metrics: of the base evaluations, detached, on their devices.
        signals: the signals' values by label, detached.
        failed: the label of the first problem in which something was not finite, and what it was;
            None if all was finite.
        cause: the error that it led to.
        overflowed: whether it was a norm alone, of a gradient that is finite.
        updated: the problems that were updated.
        gradients: the total gradient of each problem by key.
    """

    metrics: dict[str, Any] = field(default_factory=dict)
    signals: dict[str, Any] = field(default_factory=dict)
    failed: tuple[str, str] | None = None
    cause: BaseException | None = None
    overflowed: bool = False
    updated: set[Problem] = field(default_factory=set)
    gradients: dict[Problem, Tensors] = field(default_factory=dict)

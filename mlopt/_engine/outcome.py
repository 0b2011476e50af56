"""What a step did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .._errors import NonFiniteError
from .._graph.problem import Problem
from .._tensors import Tensors

__all__ = ["Outcome", "non_finite"]


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


def non_finite(outcome: Outcome, what: str, step: int, undone: bool) -> NonFiniteError:
    """The error of a step, or of a hypergradient, that met something that is not finite.

    Args:
        outcome: says where.
        what: "step" or "hypergradient".
        step: its index.
        undone: whether what was committed before has been undone.

    Returns:
        The error.
    """
    assert outcome.failed is not None
    label, part = outcome.failed
    if not part:  # a method met it, and says where
        return NonFiniteError(str(outcome.cause), problem=label, step=step)
    advice = "Lower its learning rate, clip its gradient, or look at its batch"
    if part == "state":
        advice += (
            "; a tensor of its optimizer's state that is to start at infinity has to be there "
            "before the first step: make it where the optimizer is made, or keep a Python number"
        )
    if part in ("update", "state"):
        part = "update (its new values, optimizer state or buffers)"
    elif part == "scheduler":
        part = "learning rate (or another number that its scheduler writes)"
        advice = (
            "Look at what its scheduler computes; a tensor that is to start at infinity has to be "
            "there before the first step"
        )
    text = f"{what} {step}: the {part} of {label} is not finite, the first of this {what}"
    if what == "step":
        done = "nothing was committed" if undone else "earlier commits stay, as undo=False"
        text += f"; {done}. {advice}; Engine(skip_nonfinite=n) goes on past n such steps in a row."
    else:
        text += ". Look at its batch, and at the values of what it reads."
    return NonFiniteError(text, problem=label, step=step)

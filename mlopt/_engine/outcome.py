"""What a step did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .._errors import NonFiniteError
from .._graph.problem import Problem
from .._sweep.records import detached
from .._tensors import Tensors
from .numbers import means

__all__ = ["Outcome", "Update", "non_finite"]

#: Metrics of one update, its loss among them, and the losses of its further steps.
Update = tuple[dict[str, Any], Sequence[Tensor]]


@dataclass
class Outcome:
    """What a step did.

    Attributes:
        metrics: of the base evaluations, detached, on their devices.
        signals: the signals' values by label, detached.
        failed: the label of the first problem in which something was not finite, and what it was;
            None if all was finite.
        cause: the error that it led to.
        ranks: that have spoilt it, if that is known.
        overflowed: whether it was a norm alone, of a gradient that is finite.
        astray: whether it has gone by a wrong account of what other ranks have.
        updated: the problems that were updated.
        updates: of each problem what the base evaluations of its updates gave, one after another:
            metrics, and the losses of the steps after the first where a method takes several.
        gradients: the total gradient of each problem by key.
    """

    metrics: dict[str, Any] = field(default_factory=dict)
    signals: dict[str, Any] = field(default_factory=dict)
    failed: tuple[str, str] | None = None
    cause: BaseException | None = None
    ranks: Sequence[int] = ()
    overflowed: bool = False
    astray: bool = False
    updated: set[Problem] = field(default_factory=set)
    updates: dict[Problem, list[Update]] = field(default_factory=dict)
    gradients: dict[Problem, Tensors] = field(default_factory=dict)
    _reported: dict[Problem, dict[str, Any]] = field(default_factory=dict)

    def report(self, problem: Problem, label: str, loss: Tensor, metrics: dict[str, Any]) -> None:
        """What a base evaluation of a problem gave.

        Args:
            problem: the problem.
            label: of it.
            loss: its value, detached.
            metrics: besides.
        """
        found = {f"{label}/loss": loss}
        if metrics:
            found |= {f"{label}/{name}": value for name, value in detached(metrics).items()}
        self._reported[problem] = found
        self.metrics.update(found)

    def count(self, problem: Problem, more: Sequence[Tensor] = ()) -> None:
        """A problem is updated by what was reported of it last.

        Args:
            problem: the problem.
            more: losses of further steps of this update.
        """
        before = self.updates.setdefault(problem, [])
        found = self._reported[problem]
        # A step may have any number of rounds: of the later ones nothing is kept but numbers.
        before.append((dict(means(found)) if before else found, more))


def non_finite(
    outcome: Outcome, what: str, step: int, undone: bool, more: str = ""
) -> NonFiniteError:
    """The error of a step, or of a hypergradient, that met something that is not finite.

    Args:
        outcome: says where.
        what: "step" or "hypergradient".
        step: its index.
        undone: whether what was committed before has been undone.
        more: said at the end.

    Returns:
        The error.
    """
    assert outcome.failed is not None
    label, part = outcome.failed
    where = f" on rank {' and '.join(map(str, outcome.ranks))}" if outcome.ranks else ""
    if not part:  # a method met it, and says where
        began = f" It began{where}." if where else ""
        return NonFiniteError(f"{outcome.cause}{began}{more}", problem=label, step=step)
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
    text = f"{what} {step}: the {part} of {label} is not finite{where}, the first of this {what}"
    if what == "step":
        done = "nothing was committed" if undone else "earlier commits stay, as undo=False"
        text += f"; {done}. {advice}; Engine(skip_nonfinite=n) goes on past n such steps in a row."
    else:
        text += ". Look at its batch, and at the values of what it reads."
    return NonFiniteError(text + more, problem=label, step=step)

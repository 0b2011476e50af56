"""Steps that are not finite: the loss scale, which may be why, and how many may be skipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .._errors import NonFiniteError
from .outcome import Outcome, non_finite

__all__ = ["Failures"]

_START, _LEAST, _GROWTH = 2.0**16, 1.0, 2000
_EXCEEDS = (
    " The loss scale is at its least: something exceeds what fp16 holds at any scale, such as "
    "torch's second derivative of batch_norm. bf16 holds as much as float32."
)


@dataclass
class Failures:
    """Decides what becomes of a step in which something is not finite.

    In fp16 every backward pass of the graph begins with the loss scale; see `scaled`. A step that
    is not finite is undone as a whole and halves it; after 2000 others in a row it is doubled. Such
    a step says nothing of the problem, and is not counted, before the scale is at its least.

    Attributes:
        size: the loss scale; None without fp16.
        good: steps since it was changed last.
        row: steps in a row that were not finite, and are not the scale's.
    """

    size: float | None = None
    good: int = 0
    row: int = 0

    def begin(self) -> None:
        """Have a loss scale from now on."""
        self.size = _START

    def after(self, outcome: Outcome, step: int, undone: bool, most: int) -> NonFiniteError | None:
        """Count a step.

        Args:
            outcome: of it.
            step: its index.
            undone: whether what it committed is undone.
            most: how many in a row may be skipped.

        Returns:
            The error for which it is skipped; None if it is not.

        Raises:
            NonFiniteError: it may not be.
        """
        if outcome.failed is None:
            self.row = 0
            if self.size is not None:
                self.good += 1
                if self.good >= _GROWTH:
                    self.size, self.good = 2 * self.size, 0
            return None
        (label, part), size = outcome.failed, self.size
        if part != "scheduler" and self._halve():
            what = f"the {part} of {label}" if part else "a number of a method"
            done = "nothing was committed" if undone else "earlier commits stay, as undo=False"
            return NonFiniteError(
                f"step {step}: {what} is not finite at a loss scale of {size:g}; {done}, and the "
                f"scale is {self.size:g} from here on.",
                problem=label,
                step=step,
            )
        error = non_finite(outcome, "step", step, undone, _EXCEEDS if size else "")
        if self.row >= most:
            raise error from outcome.cause
        self.row += 1
        return error

    def attempt(self, run: Callable[[], Outcome]) -> Outcome:
        """Run what is not kept with as large a scale as it takes; the scale stays what it was."""
        before = self.size, self.good
        try:
            while True:
                outcome = run()
                if outcome.failed is None or not self._halve():
                    return outcome
        finally:
            self.size, self.good = before

    def _halve(self) -> bool:
        """Whether there is a scale, and it could be."""
        if self.size is None or self.size <= _LEAST:
            return False
        self.size, self.good = self.size / 2, 0
        return True

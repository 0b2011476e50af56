"""The loop of `Engine.run`: steps, logging, validation, callbacks, the progress bar."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from .._containers.loaders import describe
from .._errors import CapabilityWarning, SettingsError
from .._graph.stream import Stream
from .halt import Halt
from .numbers import left_out_of, readable
from .progress import Progress
from .record import Record
from .stepper import Stepper
from .turns import have_turn

__all__ = ["Loop", "returned"]

#: After so many batches, a pass of unknown length by which a run counts may well have no end.
_LONG = 1000


class Loop:
    """One call of `Engine.run`.

    Args:
        engine: takes the steps.
        tell: (hook, arguments): calls the hook of every observer.
        stopping: whether one of them has ended the run.
        halt: whether a signal has.
        validate: as of `Engine.run`.
        validate_every: likewise.
        log_every: likewise.
        record: of its loggers, which `tell` tells, too.
        phases: as of `Engine.run`.

    Attributes:
        status: how the run has ended: "finished", "interrupted" or "failed".
    """

    def __init__(
        self,
        engine: Stepper,
        tell: Callable[..., None],
        stopping: Callable[[], bool],
        halt: Halt,
        validate: Callable[[], Mapping[str, Any] | None] | None,
        validate_every: int,
        log_every: int,
        record: Record,
        phases: Mapping[str, str],
    ) -> None:
        self.engine = engine
        self.tell, self.stopping, self.halt = tell, stopping, halt
        self.validate = validate
        self.validate_every = validate_every
        self.log_every = log_every
        self.record, self.phases = record, phases
        self.status = "finished"
        self._left_out: set[str] = set()

    def run(
        self,
        began: tuple[int, int],
        steps: int | None,
        epochs: int | None,
        stream: Stream | None,
        progress: bool,
    ) -> None:
        """Take steps until there are enough, or a callback stops the engine.

        Args:
            began: the step and the epoch at which the run has begun, in another process it may be.
            steps: how many from there, or None.
            epochs: how many from there, or None.
            stream: that counts epochs.
            progress: show a bar.
        """
        engine = self.engine
        first_step, first_epoch = began
        last_step = None if steps is None else first_step + steps
        last_epoch = None if epochs is None else first_epoch + epochs
        unsure = None
        if epochs is not None and stream is not None:
            if stream.length is None:
                unsure = stream
            else:
                steps = epochs * stream.length
        here = engine.steps
        bar = Progress(engine, steps, began, epochs, self.phases, progress)
        try:
            self.tell("on_start")
            while self._goes_on():
                if last_step is not None and engine.steps >= last_step:
                    break
                if last_epoch is not None and engine.epoch >= last_epoch:
                    break
                ended = have_turn("a step of run() and its callbacks", self._step, bar)
                if unsure is not None and (ended or engine.steps - here == _LONG):
                    self._wonder(unsure, ended)
                    unsure = None
            if engine._validated != engine.steps and self.halt.came is None:
                have_turn("validate()", self._validate)
            self.halt.quiet()
        except BaseException as error:
            self.halt.quiet()
            ended = self.halt.came is not None or not isinstance(error, Exception)
            self.status = "interrupted" if ended else "failed"
            bar.close()
            engine._agreement.tell(error)  # at once: on_end saves nothing that takes all ranks
            self._end_after(error)
            raise
        bar.close()
        if self.halt.came is not None:
            self.status = "interrupted"
        self.tell("on_end")

    def _goes_on(self) -> bool:
        """Whether nothing asks for the end, of this rank or of another."""
        engine = self.engine
        came = self.halt.came or 0
        stop, came = engine._agreement.before_step(
            engine.steps, engine.epoch, self.stopping(), came
        )
        if came and self.halt.came is None:
            self.halt.told(came)
        return not (stop or came)

    def _end_after(self, error: BaseException) -> None:
        """Tell of the end that an error makes; what is raised there does not stand for it."""
        try:
            self.tell("on_end")
        except Exception as another:
            if hasattr(error, "add_note"):  # Python 3.11
                error.add_note(f"mlopt: on_end raised {another!r} after this.")  # type: ignore[attr-defined]

    def _step(self, bar: Progress) -> bool:
        """Take a step and tell of it; whether an epoch ended with it."""
        engine, before = self.engine, self.engine.epoch
        metrics = engine._take_step()
        bar.step()
        if engine.skipped is not None:
            self.tell("on_skip", engine.skipped)
        self.tell("on_step", metrics)
        ended = engine.epoch > before
        if engine.steps % self.log_every == 0 or ended:
            self._log(metrics, bar)
        if ended:
            bar.begin_epoch()
            self.tell("on_epoch", dict(engine.clock.means))
            if engine.epoch % self.validate_every == 0:
                self._validate()
        self.tell("on_between")
        return ended

    def _log(self, metrics: dict[str, Any], bar: Progress) -> None:
        engine = self.engine
        numbers, rest = readable(metrics)
        signals, _ = readable({f"signal/{k}": v for k, v in engine.signals.items()})
        top = f"{engine.graph.labels[engine.graph.problems[-1]]}/loss"
        bar.say(f"{top} {numbers[top]:.4g}" if top in numbers else "")
        pictures = self.record.pictures(rest)
        left_out = {name: value for name, value in rest.items() if name not in pictures}
        left_out_of("the logs", left_out, self._left_out)
        self.tell("on_log", {**numbers, **signals})
        self.record.draw(engine, pictures)

    def _validate(self) -> None:
        if self.validate is None:
            return
        found = self.validate()
        self.engine._validated = self.engine.steps
        self.tell("on_validation", returned(found, "run: validate="))

    def _wonder(self, stream: Stream, ended: bool) -> None:
        """Say that a run may never end, if its first epoch is still not over."""
        if not ended:
            warnings.warn(
                f"run: epochs= counts the passes of {describe(stream.loader)}, which does not say "
                f"how long they are, and the first has not ended after {_LONG} steps. If it never "
                "ends, neither does the run: give steps=.",
                CapabilityWarning,
                stacklevel=2,
            )


def returned(found: Any, by: str) -> dict[str, Any]:
    """The metrics that a function of validation has returned.

    Args:
        found: whatever it was.
        by: which function it was, for the error.

    Returns:
        A dict, which nobody else has.

    Raises:
        SettingsError: it is no dict.
    """
    if found is not None and not isinstance(found, Mapping):
        raise SettingsError(
            f"{by} returned a {type(found).__name__}; it returns a dict of metrics, such as "
            "{'accuracy': 0.9}, or nothing."
        )
    return dict(found or {})

"""`Halt`: SIGINT and SIGTERM end a run after the step that is being taken."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any

from .._errors import Interrupted
from .stepper import Stepper

__all__ = ["Halt"]

_ENDING = (signal.SIGINT, signal.SIGTERM)
_CHILD = getattr(signal, "SIGCHLD", None)  # not on Windows
#: What stands where nobody has set another.
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


class _Signals:
    """What the runs of the main thread, which may be nested, do with signals.

    Attributes:
        came: the first that asks for the end.
    """

    def __init__(self) -> None:
        self.came: signal.Signals | None = None
        self._runs: list[Halt] = []  # the outermost first
        self._before: dict[int, Any] = {}  # handlers, by signal
        self._deaf = False  # to children that die
        self._masks = threading.local()

    def begin(self, run: Halt) -> None:
        """A run begins; what is raised in the middle of this leaves the handlers as they were."""
        try:
            for number in () if self._runs else _ENDING:
                handler = signal.getsignal(number)
                if handler in _DEFAULTS or getattr(handler, "may_wait", False):
                    self._before[number] = handler
                    signal.signal(number, self._note)
            self._runs.append(run)
        except BaseException as error:
            if not self._runs:
                self._put_back()
            if not isinstance(error, ValueError):  # in an interpreter inside of another
                raise

    def end(self, run: Halt) -> signal.Signals | None:
        """A run ends, and with the first all: handlers that stand as they were set are put back.

        Returns:
            What came.
        """
        came = self.came
        if run in self._runs[:1]:
            self._put_back()
            self.came, self._deaf = None, False
            self._runs.clear()
        elif run in self._runs:
            self._runs.remove(run)
        return came

    def quiet(self) -> None:
        """From here on no child's death raises anything, where it would keep a run from saving."""
        self._deaf = True
        with contextlib.suppress(RuntimeError):  # of one that has just died
            self._hear_children()
        self._hear_children()

    def before_fork(self) -> None:
        """A signal to the child waits until `in_child`: before, Python would lose it."""
        if self._before:
            self._masks.held = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)

    def after_fork(self) -> None:
        """Here, and in the child, signals no longer wait."""
        held = vars(self._masks).pop("held", None)
        if held is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)

    def in_child(self) -> None:
        """A forked child, of a loader or a user, is ended by a signal as any process is."""
        with contextlib.suppress(ValueError):
            self._put_back()
        self._runs.clear()
        self.came, self._deaf = None, False
        self.after_fork()

    def _put_back(self) -> None:
        for number, handler in [*self._before.items()]:
            ours = self._child if number == _CHILD else self._note
            if signal.getsignal(number) == ours:
                signal.signal(number, handler)
            self._before.pop(number, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.came is None:
            self.came = signal.Signals(number)
            self._hear_children()
            return
        handler = self._before.get(number, signal.SIG_DFL)
        self._put_back()
        if callable(handler):
            handler(number, frame)
        else:
            signal.signal(number, handler)
            signal.raise_signal(number)

    def _hear_children(self) -> None:
        """Stand before the handler by which a loader raises, anywhere, that a worker has died."""
        if _CHILD is not None and _CHILD not in self._before:
            handler = signal.getsignal(_CHILD)
            if callable(handler):
                self._before[_CHILD] = handler
                signal.signal(_CHILD, self._child)

    def _child(self, number: int, frame: FrameType | None) -> None:
        if self._deaf:
            return
        try:
            self._before[number](number, frame)
        except BaseException:  # the step cannot be finished: once said is enough
            self._deaf = True
            raise


_signals = _Signals()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_signals.before_fork,
        after_in_parent=_signals.after_fork,
        after_in_child=_signals.in_child,
    )


class Halt:
    """A block in which the first SIGINT or SIGTERM is noted, for a run to end after its step.

    The next one does what it does by default, at once. It is so in the main thread, which Python
    interrupts, and where the handler is the default one; another is its owner's. A block inside of
    another one, of a run in a callback or in `validate`, is ended by the same signal.

    Raises:
        Interrupted: a signal came, at the end of the block; from what was raised in it.
    """

    def __init__(self, engine: Stepper) -> None:
        self._engine = engine
        self._main = threading.current_thread() is threading.main_thread()
        self._elsewhere: signal.Signals | None = None

    @property
    def came(self) -> signal.Signals | None:
        """The signal that asks for the end; None if none has come."""
        return (_signals.came if self._main else None) or self._elsewhere

    def told(self, came: int) -> None:
        """A signal has come to another rank."""
        self._elsewhere = signal.Signals(came)

    def quiet(self) -> None:
        """The run ends: loaders' workers, which a signal may have reached too, no longer matter."""
        if self._main:
            _signals.quiet()

    def close(self) -> signal.Signals | None:
        """End the block, if something that fell into its end has kept it from that.

        Returns:
            The signal that came in it.
        """
        return _signals.end(self) if self._main else None

    def __enter__(self) -> Halt:
        if self._main:
            _signals.begin(self)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        came = self.close() or self._elsewhere
        if came is not None and (error is None or isinstance(error, Exception | Interrupted)):
            raise Interrupted(_said(self._engine, came), signal=came) from error


def _said(engine: Stepper, came: signal.Signals) -> str:
    n, saved = engine.steps, engine._saved
    text = f"run: ended by {came.name} after {n} step{'s' * (n != 1)}"
    if saved is None:
        return (
            f"{text}, of which nothing is saved. To be able to go on, give "
            "callbacks=[mlopt.Checkpoint(folder)], and resume=folder in the same call."
        )
    step, folder = saved
    where = "saved" if step == n else f"of which the first {step} are saved"
    return f"{text}, {where} in {folder}. To go on, call run(resume={str(folder)!r}) as before."

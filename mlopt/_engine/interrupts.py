"""`Deferral`: Ctrl-C waits until what has begun is through."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Deferral"]

# What stands behind Python's functions, which try each time whether a handler is one of an enum.
_behind = sys.modules.get("_signal", signal)
_get, _set = _behind.getsignal, _behind.signal


class Deferral:
    """An interrupt (SIGINT) that arrives between `begin` and `end` is raised by `end`.

    In a run the handler that it was meant for is that of `Halt`, which ends the run after the step.
    Python interrupts its main thread alone, so in others nothing is done, nor where the handler is
    not one of Python's. Whatever else is raised in the middle of any of this, by the handler of
    another signal say, leaves it known what is to be put back: so `end`, once more, does that.

    Attributes:
        handler: what `end` puts back; None outside.
    """

    def __init__(self) -> None:
        self.handler: Any = None
        self._waiting = 0

    def begin(self) -> None:
        """From here on interrupts wait; again, to no effect."""
        if self.handler is None:
            handler = _get(signal.SIGINT)
            if not callable(handler):
                return
            self.handler = handler
        try:
            _set(signal.SIGINT, self._note)
        except ValueError:  # this is not the main thread
            self.handler = None

    def end(self) -> None:
        """Interrupts no longer wait; one that did is raised, by the handler it was meant for."""
        handler = self.handler
        if handler is not None:
            _set(signal.SIGINT, handler)
            waiting, self.handler, self._waiting = self._waiting, None, 0
            for _ in range(waiting):
                handler(signal.SIGINT, None)

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """For a block interrupts are raised at once, for what may take long or wait for others."""
        if self.handler is not None:
            _set(signal.SIGINT, self.handler)
        try:
            yield
        finally:
            if self.handler is not None:
                _set(signal.SIGINT, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._waiting += 1

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

    Python interrupts its main thread alone, so in others nothing is done, nor where the handler is
    not one of Python's.
    """

    def __init__(self) -> None:
        self._handler: Any = None
        self._waiting = False

    def begin(self) -> None:
        """From here on interrupts wait; again, to no effect."""
        handler = None if self._handler is not None else _get(signal.SIGINT)
        if callable(handler):
            self._handler = handler
            try:
                _set(signal.SIGINT, self._note)
            except ValueError:  # this is not the main thread
                self._handler = None

    def end(self) -> None:
        """Interrupts no longer wait; one that did is raised, by the handler it was meant for."""
        handler, self._handler = self._handler, None
        if handler is not None:
            _set(signal.SIGINT, handler)
            if self._waiting:
                self._waiting = False
                handler(signal.SIGINT, None)

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """For a block interrupts are raised at once, for what may take long or wait for others."""
        handler, self._handler = self._handler, None
        if handler is not None:
            _set(signal.SIGINT, handler)
        try:
            yield
        finally:
            if handler is not None:
                self._handler = handler
                _set(signal.SIGINT, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._waiting = True

"""Something that is done now and then while a run goes on, and takes next to none of its time."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Generic, TypeVar

from mlopt._errors import CapabilityWarning

__all__ = ["Refresh"]

Of = TypeVar("Of")

_SHARE = 0.01  # of the time of the run
_PAUSE = 30.0  # seconds at least from the end of one call to the next
_FIRST = 3.0  # seconds that the first call with data to show is taken to need


class Refresh(Generic[Of]):
    """Calls a function when it is due: all calls together take a hundredth of the time so far.

    The next call is taken to need as long as the last. One that fails is the last one: the run goes
    on without.

    Args:
        call: what to do.
    """

    def __init__(self, call: Callable[[Of], object]) -> None:
        self._call: Callable[[Of], object] | None = call
        self._began = time.perf_counter()
        self._spent, self._due = 0.0, 0.0

    def when_due(self, of: Of) -> None:
        """Call the function if it is time.

        Args:
            of: what to call it with.
        """
        if time.perf_counter() >= self._due:
            self.now(of)

    def now(self, of: Of) -> None:
        """Call the function.

        Args:
            of: what to call it with.
        """
        if self._call is None:
            return
        began = time.perf_counter()
        try:
            self._call(of)
        except Exception as error:
            self._call = None
            warnings.warn(
                f"{of}: what is refreshed while the run goes on could not be written, and is not "
                f"tried again ({type(error).__name__}: {error}).",
                CapabilityWarning,
                stacklevel=4,
            )
        ended = time.perf_counter()
        took = ended - began
        self._spent += took
        enough = self._began + (self._spent + max(took, _FIRST)) / _SHARE
        self._due = max(ended + _PAUSE, enough)

"""`in_turn`: engines work one at a time, and none in the middle of its own work."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from .._errors import GraphError
from .._turn import turn

__all__ = ["in_turn", "refuse_inside", "turn"]

_F = TypeVar("_F", bound=Callable[..., Any])


def in_turn(verb: str) -> Callable[[_F], _F]:
    """Have a method of an engine wait until no other thread's engine works.

    Args:
        verb: what the user calls it.

    Returns:
        A decorator. The method raises a `GraphError` if it is called while the same engine is at
        work, by one of its functions, loaders, optimizers or schedulers.
    """

    def decorate(method: _F) -> _F:
        @functools.wraps(method)
        def wait(self: Any, *args: Any, **kwargs: Any) -> Any:
            with turn:
                refuse_inside(self, verb)
                try:
                    self._doing = verb
                    return method(self, *args, **kwargs)
                finally:
                    self._doing = ""

        return wait  # type: ignore[return-value]

    return decorate


def refuse_inside(engine: Any, verb: str) -> None:
    """Raise if an engine is asked for something in the middle of its own work.

    Args:
        engine: the engine; this thread has its turn.
        verb: what it is asked for.

    Raises:
        GraphError: it is at work.
    """
    if engine._doing:
        raise GraphError(
            f"{verb}: called inside {engine._doing} of the same engine, by an objective, signal, "
            "loader, optimizer or scheduler. These have no other effects: call the engine between "
            "its steps; hypergradient() and plan() may stand in a callback, too."
        )

"""`in_turn`: engines work one at a time, and none in the middle of its own work."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from torch.nn.utils import parametrize

from .._errors import GraphError
from .._turn import turn

__all__ = ["in_turn", "refuse_inside", "turn", "working"]

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
            with working(self, verb):
                return method(self, *args, **kwargs)

        return wait  # type: ignore[return-value]

    return decorate


class working:  # noqa: N801 - used as a function
    """A block in which an engine works, and no other.

    A cache of parametrized weights that somebody has opened around it is closed meanwhile: it would
    give the weights of one evaluation to all others.

    Args:
        engine: the engine.
        verb: what it is asked for.

    Raises:
        GraphError: it is at work already.
    """

    __slots__ = ("_around", "_engine", "_verb")

    def __init__(self, engine: Any, verb: str) -> None:
        self._engine, self._verb, self._around = engine, verb, 0

    def __enter__(self) -> None:
        turn.acquire()
        try:
            if self._engine._doing:
                refuse_inside(self._engine, self._verb)
            self._around = parametrize._cache_enabled
            parametrize._cache_enabled = 0
            self._engine._doing = self._verb
        except BaseException:
            turn.release()
            raise

    def __exit__(self, *exception: object) -> None:
        try:
            self._engine._doing = ""
            if self._around:
                parametrize._cache_enabled += self._around
                parametrize._cache = {}
        finally:
            turn.release()


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

"""`in_turn`: engines work one at a time, and none in the middle of its own work."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from torch.nn.utils import parametrize

from .._errors import GraphError
from .._turn import have_turn

__all__ = ["have_turn", "in_turn", "refuse_inside"]

_F = TypeVar("_F", bound=Callable[..., Any])


def in_turn(verb: str) -> Callable[[_F], _F]:
    """Have a method of an engine, or a function of one, wait until no other thread's engine works.

    A cache of parametrized weights that somebody has opened around it is closed meanwhile: it would
    give the weights of one evaluation to all others.

    Args:
        verb: what the user calls it.

    Returns:
        A decorator; the engine is the first argument. What it decorates raises a `GraphError` if it
        is called while the same engine is at work, by one of its functions, loaders, optimizers or
        schedulers.
    """

    def decorate(method: _F) -> _F:
        def work(self: Any, *args: Any, **kwargs: Any) -> Any:
            if self._doing:
                refuse_inside(self, verb)
            around = parametrize._cache_enabled
            try:
                parametrize._cache_enabled, self._doing = 0, verb
                if self._sharded is None:
                    return method(self, *args, **kwargs)
                with self._sharded.standing():
                    try:
                        return method(self, *args, **kwargs)
                    finally:
                        self._interrupts.begin()  # until all shards are back in their places
            finally:  # by assignments alone: an interrupt comes between calls
                self._doing = ""
                parametrize._cache_enabled = around
                if around:
                    parametrize._cache = {}
                if self._interrupts.handler is not None:  # something fell into the end of a block
                    self._interrupts.end()

        @functools.wraps(method)
        def wait(self: Any, *args: Any, **kwargs: Any) -> Any:
            return have_turn(verb, work, self, *args, **kwargs)

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

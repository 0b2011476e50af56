"""The hooks of callbacks: that all which are named like one can be called as one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .._arguments import takes
from .._errors import SettingsError
from .._graph.options import listed
from .turns import have_turn

__all__ = ["observers_of", "teller"]

_C = TypeVar("_C")


def observers_of(callbacks: Any, kind: type[_C]) -> tuple[_C, ...]:
    """The callbacks of a run, all of whose hooks can be called.

    Args:
        callbacks: what was given.
        kind: the class that they derive from.

    Returns:
        They.

    Raises:
        SettingsError: one is no callback, or has a method that is named like a hook and is none.
    """
    hooks = _hooks(kind)
    observers = listed("run", "callbacks", callbacks, "[MyCallback()]", SettingsError)
    for callback in observers:
        if not isinstance(callback, kind):
            raise SettingsError(
                f"run: callbacks= holds {callback!r}; it takes objects of classes derived from "
                "mlopt.Callback."
            )
        _check_hooks(callback, hooks)
    return observers


def teller(engine: Any, observers: Sequence[Any]) -> Callable[..., None]:
    """What tells all callbacks of a run.

    Args:
        engine: that runs.
        observers: the callbacks, in their order.

    Returns:
        (hook, arguments) -> None. All are told of the end, also where one of them raises.
    """

    def tell_all(hook: str, *what: Any) -> None:
        failed: Exception | None = None
        for callback in observers:
            try:
                getattr(callback, hook)(engine, *what)
            except Exception as error:
                if hook != "on_end":
                    raise
                failed = failed or error  # the others close what they have open
        if failed is not None:
            raise failed

    return lambda hook, *what: have_turn(f"{hook}() of callbacks", tell_all, hook, *what)


def _check_hooks(callback: Any, hooks: dict[str, tuple[str, ...]]) -> None:
    """All that is named like a hook is one, and can be called as one."""
    kind = type(callback).__name__
    for name in dir(callback):
        if not name.startswith("on_") or not callable(hook := getattr(callback, name)):
            continue
        if name not in hooks:
            raise SettingsError(
                f"run: {kind}.{name} is no hook and would never be called. The hooks are "
                f"{', '.join(hooks)}; give a method of your own a name without on_."
            )
        if not takes(hook, *hooks[name]):
            raise SettingsError(
                f"run: {kind}.{name} is called with ({', '.join(hooks[name])}), which its "
                "signature does not take. Give it these arguments, behind self."
            )


def _hooks(kind: type) -> dict[str, tuple[str, ...]]:
    """What each hook of a callback is called with."""
    return {
        name: tuple(inspect.signature(hook).parameters)[1:]
        for name, hook in vars(kind).items()
        if name.startswith("on_")
    }

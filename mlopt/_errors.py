"""The exceptions of mlopt: each message says where, what was given, and what to do."""

from __future__ import annotations

import contextlib
import signal as signals
import warnings
from collections.abc import Iterator
from typing import Any

import torch

__all__ = [
    "CapabilityWarning",
    "ConvergenceError",
    "ConvergenceWarning",
    "DataError",
    "GraphError",
    "Interrupted",
    "MloptError",
    "NonFiniteError",
    "RankError",
    "SettingsError",
    "exhausted",
    "leave_out_failing",
    "leaving_out",
]


class MloptError(Exception):
    """Base class of every error that mlopt raises on purpose."""


class GraphError(MloptError):
    """The problems form no graph that can be run: a wrong edge, order, optimizer or method."""


class DataError(MloptError):
    """Data is missing, empty, or not what it claims to be."""


class SettingsError(MloptError):
    """A setting, preset, file or folder that a run was given cannot be used."""


class NonFiniteError(MloptError):
    """A loss, gradient or product is infinite or not a number; nothing of the step was committed.

    Attributes:
        problem: label of the first problem in which something was not finite, in the order in
            which the step computes them: from the lowest level up, but for `UpperFirst`.
        step: index of the step; None where a method met it on its own.
    """

    def __init__(self, message: str, *, problem: str = "", step: int | None = None) -> None:
        super().__init__(message)
        self.problem = problem
        self.step = step


class ConvergenceError(MloptError):
    """An iterative method diverged, or has nothing to work on; nothing was committed."""


class RankError(MloptError):
    """Another rank has failed or is gone, so that this one cannot go on; see `Engine(ranks=)`.

    Nothing is saved on any rank: the last checkpoint stands, from which a run goes on with any
    number of ranks.

    Attributes:
        rank: of the process that failed first, in the engine's group; -1 if that is not known.
    """

    def __init__(self, message: str, *, rank: int = -1) -> None:
        super().__init__(message)
        self.rank = rank


class Interrupted(KeyboardInterrupt):
    """A run was ended by SIGINT (Ctrl-C) or SIGTERM, after the step that was being taken.

    It is no `Exception`, so that what handles errors does not go on with an engine whose run is not
    over. The message says how many steps were taken, where they are saved, and how to go on.

    Attributes:
        signal: that came. By convention a program exits with 128 + signal then (130, 143), as the
            examples do.
    """

    def __init__(self, message: str, *, signal: signals.Signals) -> None:
        super().__init__(message)
        self.signal = signal


class ConvergenceWarning(UserWarning):
    """An iterative method stopped early, and its result is less than was asked for."""


class CapabilityWarning(UserWarning):
    """Something cannot be done as it was asked for; the message says what is done instead."""


#: How errors without a class of their own say it: of torch's allocators, of CUDA and its libraries.
_EXHAUSTED = (
    "out of memory", "allocate memory", "not enough memory", "ALLOC_FAILED", "CUDA error",
)  # fmt: skip


def exhausted(error: BaseException) -> bool:
    """Whether an error says that memory or the stack has run out, or that the device has failed.

    It is no matter of the function that was called. So whoever catches errors to find another way
    raises these as they are.

    Args:
        error: what was raised.

    Returns:
        Whether it does.
    """
    if isinstance(error, MemoryError | RecursionError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _EXHAUSTED)


def leave_out_failing(observers: list[Any], method: str, *what: Any) -> None:
    """Tell several observers something; one that fails is left out from then on, and that is said.

    Args:
        observers: those who are told, each by its method of that name if it has one; who fails is
            taken out of the list.
        method: its name.
        *what: its arguments; each observer gets a dict of its own.
    """
    for observer in tuple(observers):
        with leaving_out(observers, observer, method):
            tell = getattr(observer, method, None)
            if tell is not None:
                tell(*(dict(w) if isinstance(w, dict) else w for w in what))


@contextlib.contextmanager
def leaving_out(observers: list[Any], observer: object, method: str) -> Iterator[None]:
    """For a block that calls an observer: one that fails is left out from then on, and it is said.

    Args:
        observers: all of them.
        observer: that is called.
        method: which, for the warning.
    """
    try:
        yield
    except Exception as error:  # it is somebody else's, and the work goes on without it
        observers[:] = [other for other in observers if other is not observer]
        warnings.warn(
            f"{type(observer).__name__}.{method}() failed, and nothing more is logged there: "
            f"{type(error).__name__}: {error}",
            CapabilityWarning,
            stacklevel=2,
        )

"""How a program ends: with its result, one line for an error, or the command that continues it."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

import mlopt

from ..ranks import check_joined, says
from ..ranks import command as started_by


class Terminated(KeyboardInterrupt):
    """SIGTERM, where nobody else takes it.

    Attributes:
        signal: its number.
    """

    signal = signal.SIGTERM


@contextlib.contextmanager
def ending(resume: str = "--resume") -> Iterator[None]:
    """The body of a program, which an error or a signal ends in good order.

    An error of mlopt becomes one line and the status 1. SIGINT and SIGTERM become the command that
    continues the run, as the last line, and the status 128 + the signal: 130 and 143. A second
    SIGTERM ends the program at once. Of several ranks one says it.

    Args:
        resume: the option with which the same command goes on; empty if it does without.
    """
    ours = _take_terminate()
    try:
        check_joined()
        yield
    except mlopt.MloptError as error:
        sys.exit(f"error: {error}" if says(error) else 1)
    except KeyboardInterrupt as error:
        print(f"\nInterrupted. This continues the run:\n{continuing(resume)}", flush=True)
        sys.exit(128 + getattr(error, "signal", signal.SIGINT))
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def continuing(resume: str, command: Sequence[str] = ()) -> str:
    """The command for a shell that continues a run.

    Args:
        resume: the option with which the same command goes on; empty if it does without.
        command: by default that of this program.
    """
    words = list(command or started_by())
    return shlex.join([*words, *([resume] if resume and resume not in words else [])])


def _take_terminate() -> bool:
    """Let SIGTERM be raised as SIGINT is, unless somebody else has taken it; whether it is."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return False

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    terminate.may_wait = True  # type: ignore[attr-defined]  # a run ends its step first
    try:
        signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not the main thread, which alone gets signals
        return False
    return True

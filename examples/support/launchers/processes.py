"""`Processes`: several cells at a time, in a process each of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence

from ..tables import Cell, Runner
from .launch import Ended

#: Seconds between two looks at the processes.
_LOOK = 0.1


class Processes:
    """Runs each cell in a process of its own.

    The process has the command of this program, and `--cell` with the folder of its cell. What it
    prints is in the cell's `output`. It ends, as by Ctrl-C, when its standard input does: when the
    launcher is closed, or this process is no more, however it ended. Signals of a terminal or a
    scheduler, which may go to all processes at once, are for this one alone: a run that gets a
    second one would not wait for its step.

    Torch takes the cores that this process may use, divided by `at_once`, unless OMP_NUM_THREADS
    says otherwise.

    Args:
        command: of this program.
        at_once: how many processes.
    """

    def __init__(self, command: Sequence[str], at_once: int) -> None:
        self.at_once: float = at_once
        self._command, self._threads = list(command), max(1, _cores() // at_once)
        self._running: dict[subprocess.Popen[bytes], Cell] = {}

    def begin(self, cell: Cell, again: bool) -> None:
        """Start the process of a cell."""
        del again  # the lock of a process ends with it
        threads = {"OMP_NUM_THREADS": str(self._threads)}
        cell.output.parent.mkdir(parents=True, exist_ok=True)
        with cell.output.open("ab") as output:
            process = subprocess.Popen(
                [*self._command, "--cell", str(cell.folder)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**threads, **os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C on a terminal reaches this process alone
            )
        self._running[process] = cell

    def wait(self) -> Ended:
        while True:
            for process, cell in self._running.items():
                if process.poll() is not None:
                    del self._running[process]
                    _end_input(process)
                    return _ended(cell, process.returncode)
            time.sleep(_LOOK)

    def close(self) -> None:
        """End what runs; a second interrupt kills it."""
        if not self._running:
            return
        print(f"{len(self._running)} cells end after their step, and save it.", flush=True)
        try:
            for process in self._running:
                _end_input(process)
            for process in self._running:
                process.wait()
        except KeyboardInterrupt:
            for process in self._running:
                process.kill()
            raise


def run_child(cell: Cell, start: Runner) -> int:
    """Run a cell in the process that `Processes` has started for it.

    Args:
        cell: to run.
        start: runs an example.

    Returns:
        The exit status: 0 if the cell says what became of it, 130 if it was interrupted.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell has it ignored
    signal.signal(signal.SIGTERM, lambda *_: None)
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        cell.attempt(start)
    except KeyboardInterrupt as error:
        print(f"Interrupted. {error}".strip())
        return 128 + signal.SIGINT
    return 0


def _end_with_input() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGINT)


def _end_input(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def _ended(cell: Cell, status: int) -> Ended:
    if status == 0:
        return Ended(cell, cell.state())
    if status == 128 + signal.SIGINT:
        return Ended(cell, "half done")
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"has exited {status}"
    return Ended(cell, "died", f"its process {how}; what it printed is in {cell.output}")


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

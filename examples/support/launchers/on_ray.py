"""`OnRay`: each cell a task of a Ray cluster that is there."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import math
import os
import platform
import re
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future
from typing import Any

import mlopt

from ..tables import Cell, Runner
from .launch import Ended

#: Seconds in which the head of a cluster must answer.
_ANSWER = 10.0
#: Seconds that a cell whose process died waits for its lock: an NFS server keeps that of a machine
#: that is no more for a minute and a half.
_PATIENCE = 180.0


class OnRay:
    """Gives all cells to a Ray cluster, which runs as many at a time as its resources allow.

    A worker runs one cell at a time; its OMP_NUM_THREADS and CUDA_VISIBLE_DEVICES are Ray's affair.
    It has the working directory and the `sys.path` of this process: the checkout, the folder of the
    experiments and the data are on a file system that all nodes share, at the same place. Ray
    prints here what cells print, after their names.

    Args:
        start: runs an example.
        address: of the cluster, host:port or "auto"; by default RAY_ADDRESS, and otherwise "auto",
            the one that was started on this machine.
        cpus: of a cell.
        gpus: of a cell; may be a fraction.

    Raises:
        SettingsError: the package ray is missing, or there is no such cluster.
    """

    at_once: float = math.inf  # Ray has the queue

    def __init__(
        self, start: Runner, address: str = "", cpus: float = 1.0, gpus: float = 0.0
    ) -> None:
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise mlopt.SettingsError(
                "--launcher ray needs the package ray, which is not installed: pip install ray"
            ) from error
        self._ray: Any = ray
        self._start = start
        self._running: dict[Future[str], tuple[Any, Cell]] = {}
        self._ours = not ray.is_initialized()
        if self._ours:
            _connect(ray, address or os.environ.get("RAY_ADDRESS") or "auto")
        self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_task())
        if not any(_fits(node, cpus, gpus) for node in ray.nodes()):
            print(
                f"No node of the cluster has room for --cpus {cpus:g} --gpus {gpus:g} yet: Ray "
                "waits for one.",
                flush=True,
            )

    def begin(self, cell: Cell, again: bool) -> None:
        """Give a task to the cluster."""
        patience = _PATIENCE if again else 0.0
        work = functools.partial(_run, cell, self._start, patience)
        task = self._task.options(name=cell.title)
        where = (sys.path, os.getcwd())
        ref = task.remote(*where, self._ray.cloudpickle.dumps(work))
        self._running[ref.future()] = (ref, cell)

    def wait(self) -> Ended:
        errors = self._ray.exceptions
        # not by ray.wait, in which every signal becomes a KeyboardInterrupt
        future = next(iter(concurrent.futures.wait(self._running, None, FIRST_COMPLETED).done))
        _, cell = self._running.pop(future)
        try:
            return Ended(cell, future.result())
        except errors.TaskCancelledError:
            return Ended(cell, "half done")
        except errors.RayTaskError as error:  # a cell itself says what became of it
            said = f"{type(error.cause).__name__}: {error.cause}"
            cell.fail(f"on its node, before it began: {said}", str(error))
            return Ended(cell, "failed")
        except errors.RayError as error:
            return Ended(cell, "died", f"its worker died ({type(error).__name__})")

    def close(self) -> None:
        """Cancel what is left, and wait for what runs; a second interrupt kills it."""
        refs = [ref for ref, _ in self._running.values()]
        try:
            for ref in refs:
                self._ray.cancel(ref)
            if refs:
                print("Cells that run end after their step, and save it.", flush=True)
            concurrent.futures.wait(self._running)
        except KeyboardInterrupt:
            for ref in refs:
                self._ray.cancel(ref, force=True)
            raise
        finally:
            if self._ours:
                self._ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if found := re.fullmatch(r"([^/]+):(\d+)", address):  # Ray itself tries for minutes
            socket.create_connection((found[1], int(found[2])), timeout=_ANSWER).close()
        ray.init(address=address)
    except (OSError, RuntimeError, ValueError) as error:
        said = str(error).split(". ")[0].rstrip(".")
        raise mlopt.SettingsError(
            f"--address {address}: there is no Ray cluster ({said}). Start one with `ray start "
            "--head`, or give the host:port of its head to --address or RAY_ADDRESS."
        ) from error
    finally:
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGTERM, handler)  # Ray has set its own


def _fits(node: dict[str, Any], cpus: float, gpus: float) -> bool:
    has = node["Resources"].get
    return node["Alive"] and has("CPU", 0.0) >= cpus and has("GPU", 0.0) >= gpus


def _task() -> Callable[[list[str], str, bytes], str]:
    """The function of a task, which a worker gets whole: it finds this package only by it."""

    def task(path: list[str], folder: str, work: bytes) -> str:
        import os
        import pickle
        import platform
        import sys

        try:
            os.chdir(folder)
        except OSError as error:
            raise FileNotFoundError(
                f"{platform.node()} has no folder {folder}, in which the table was started; the "
                "nodes of the cluster must share its file system"
            ) from error
        sys.path[:0] = [place for place in path if place not in sys.path]
        return pickle.loads(work)()

    return task


def _run(cell: Cell, start: Runner, patience: float) -> str:
    """What a worker does with a cell."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell has it ignored
    print(f"begins on {platform.node()}", flush=True)
    return cell.attempt(start, patience)

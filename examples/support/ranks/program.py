"""How the ranks of a program begin, agree and end.

What they tell one another here goes by the store of torch.distributed, at which a rank looks from
time to time. So one may wait for another for as long as it takes, a signal ends the waiting, and
torch's time limits are those of an engine's steps alone. A process that was started by itself is
the first rank, and the only one: then nothing here does anything.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist

import mlopt

T = TypeVar("T")

#: What torchrun tells the processes that it starts.
_STARTED = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
#: From one look at the store to the next, in seconds: at first, and at last.
_SOON, _LATER = 0.01, 0.5
#: So long the ranks wait for one another when the program has failed, in seconds.
_FAREWELL = 20.0
#: So long the next one waits for the first to say by itself why it has failed, in seconds.
_FORGOTTEN = 3.0

#: What the ranks tell one another by; None where this process is alone.
_store: Any = None
_told = 0  # how often they have, the same on all
_command: list[str] = []  # of torchrun


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """The body of a program, which torchrun may have started several times, as one.

    All ranks run it, with the default process group of torch.distributed; what the others print is
    dropped. If it fails, or is interrupted, they end after the first: torchrun ends all that are
    left when one has ended so, and the first may have something to save.
    """
    global _store, _told, _command
    if not _are_several():
        yield
        return
    try:
        store, rank, size = next(dist.rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    except (RuntimeError, ValueError) as error:
        sys.exit(f"error: the processes that were started do not find one another: {error}")
    _store, _told = dist.PrefixStore("program", store), 0
    if "LOCAL_WORLD_SIZE" in os.environ:
        _command = ["torchrun", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"], *sys.argv]
    try:
        with contextlib.ExitStack() as stack:
            if rank:
                quiet = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(quiet))
            yield
    except BaseException as error:
        _part(_status(error))
        raise
    else:
        leave()
    finally:
        _store = None


def alone() -> bool:
    """Whether there is no other rank, or none any more."""
    return _store is None


def count() -> int:
    """How many ranks there are."""
    return 1 if alone() else dist.get_world_size()


def is_first() -> bool:
    """Whether this is the rank that writes, and speaks to whoever has started the program."""
    return alone() or dist.get_rank() == 0


def says(error: mlopt.MloptError) -> bool:
    """Whether this rank is the one to say what has ended the program.

    The first hears of what another has failed by; where the first itself is gone, the next says so.
    """
    rank = int(os.environ["RANK"]) if _are_several() else 0
    if rank == 1 and isinstance(error, mlopt.RankError) and error.rank == 0:
        return alone() or not _are_there(["end/0"], _FORGOTTEN)
    return rank == 0


def check_joined() -> None:
    """Refuse to be one of several copies of a program that is one process's.

    Raises:
        SettingsError: torchrun has started several, which are not joined.
    """
    if alone() and _are_several():
        raise mlopt.SettingsError(
            f"{os.environ['WORLD_SIZE']} processes of this program have been started, and it is "
            "one process's. Start it without torchrun."
        )


def first(work: Callable[[], T], others: Callable[[], T] | None = None) -> T:
    """What the first rank does alone, while the others wait for what comes of it.

    Args:
        work: done by the first rank.
        others: makes what the others get, where it cannot be sent; by default they get the same.

    Returns:
        What it returned. Where it raises, the others end.
    """
    if alone():
        return work()
    key = _next_key()
    if is_first():
        try:
            found = work()
        except BaseException as error:
            _store.set(key, pickle.dumps((False, _status(error))))
            raise
        _store.set(key, pickle.dumps((True, None if others else found)))
        return found
    done, told = pickle.loads(_get(key, 0))
    if not done:
        sys.exit(told)
    return others() if others else told


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A block of all ranks; where it fails on one, it fails on all.

    Raises:
        RankError: it has failed on another rank, and not on this one.
    """
    if alone():
        yield
        return
    key, said, failed = _next_key(), "", None
    try:
        yield
    except mlopt.MloptError as error:
        said, failed = f"{type(error).__name__}: {error}", error
    _store.set(f"{key}/{dist.get_rank()}", said)
    texts = [_get(f"{key}/{rank}", rank).decode() for rank in range(count())]
    if failed is not None:
        raise failed
    for rank, text in enumerate(texts):
        if text:
            raise mlopt.RankError(f"rank {rank} of {count()} has failed: {text}", rank=rank)


def leave() -> None:
    """Where the rest is the first rank's: the others end here, when all have come so far."""
    global _store
    if alone():
        return
    rank = dist.get_rank()
    with together():
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
    dist.destroy_process_group()
    _store = None
    if rank:
        sys.exit(0)


def command() -> list[str]:
    """What a shell starts this program by, of which torchrun may have started several."""
    return _command or list(sys.orig_argv)


def take_device(name: str) -> str:
    """The device of this rank: of `cuda` the one that has the rank's number on its machine."""
    if alone() or name != "cuda":
        return name
    index = int(os.environ.get("LOCAL_RANK", "0"))
    if index < torch.cuda.device_count():
        torch.cuda.set_device(index)
    return f"cuda:{index}"


def _are_several() -> bool:
    """Whether torchrun has started several processes of this program."""
    return os.environ.keys() >= _STARTED and int(os.environ["WORLD_SIZE"]) > 1


def _next_key() -> str:
    global _told
    _told += 1
    return f"told/{_told}"


def _get(key: str, rank: int) -> bytes:
    """What a rank has told, when it has; if it has ended instead, so does this one."""
    pause, end = _SOON, f"end/{rank}"
    try:
        while not _store.check([key]):
            if _store.check([end]):
                sys.exit(int(_store.get(end)))
            time.sleep(pause)
            pause = min(1.1 * pause, _LATER)
        return _store.get(key)
    except RuntimeError as error:
        raise mlopt.RankError(
            f"rank 0 of {count()} is gone, by which the ranks tell one another: {error}", rank=0
        ) from error


def _part(status: int) -> None:
    """Tell that this rank ends, and wait until the first does, and it until the others do."""
    if alone():
        return
    rank = dist.get_rank()
    others = [f"end/{r}" for r in range(1, count())] if rank == 0 else ["end/0"]
    with contextlib.suppress(RuntimeError, ValueError):
        for number in (signal.SIGINT, signal.SIGTERM):  # what comes now says that others have ended
            signal.signal(number, signal.SIG_IGN)
        _store.set(f"end/{rank}", str(status))
    _are_there(others, _FAREWELL)


def _are_there(keys: list[str], patience: float) -> bool:
    """Whether ranks have told something, or do so in that many seconds."""
    until = time.monotonic() + patience
    with contextlib.suppress(RuntimeError):  # the store may have gone with the first
        while not (there := _store.check(keys)) and time.monotonic() < until:
            time.sleep(_SOON)
        return there
    return False


def _status(error: BaseException) -> int:
    """The exit status of a process that this ends."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        return 128 + getattr(error, "signal", signal.SIGINT)
    return 1

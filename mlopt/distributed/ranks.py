"""`Ranks`: a process group, as far as an engine needs it. Nothing here waits for ever."""

from __future__ import annotations

import contextlib
import pickle
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from .._errors import GraphError, RankError
from .groups import control_of, has_gloo, is_there, leave_for_ever, lightly, store_of
from .traffic import ONCE, Traffic, current, purpose

__all__ = ["Begun", "Ranks", "found"]

#: So often who waits for another rank asks whether one has failed.
_PATIENCE = timedelta(seconds=0.5)
#: So long the ranks that are left wait to hear of one another when a connection is lost.
_ROLL_CALL = 2.0
#: So long a rank that fails waits for the others to hear of it, if the store may go with it.
_FAREWELL = 5.0
#: What torch says of a work that is not done in time, and of a peer that has gone.
_WAITING = ("Timed out", "timed out", "Operation timed out")
_GONE = ("Connection closed by peer", "Connection reset", "Broken pipe", "Socket", "connection")

_NEW = hasattr(dist, "all_gather_single")  # this torch deprecates the older names
_JOIN = getattr(dist, "all_gather_single" if _NEW else "all_gather_into_tensor", None)
_ADD_APART = getattr(dist, "reduce_scatter_single" if _NEW else "reduce_scatter_tensor", None)

_engines = 0


def found(ranks: Any) -> Ranks | None:
    """The ranks that an engine is one of.

    Args:
        ranks: a process group; None for the default one, if there is one; False for none.

    Returns:
        They; None where this process is alone.

    Raises:
        GraphError: that is no process group, or this process is not in it.
    """
    if ranks is False or (ranks is None and not is_there()):
        return None
    if ranks is None:
        ranks = dist.group.WORLD
    if not is_there() or not isinstance(ranks, dist.ProcessGroup):
        outside = ranks is getattr(dist.GroupMember, "NON_GROUP_MEMBER", object())
        what = "a group that this process is not in" if outside else repr(ranks)
        raise GraphError(
            f"Engine: ranks={what}; it takes a process group of torch.distributed that this "
            "process is in, None for the default one, or False for none."
        )
    return Ranks(ranks) if dist.get_world_size(ranks) > 1 else None


class Begun(NamedTuple):
    """A collective that is under way.

    Attributes:
        work: of torch.
        away: whether a device does it, for which the host need not wait.
    """

    work: Any
    away: bool


class Ranks:
    """The ranks of an engine: one process each, which take every step together.

    Tensors are added up on the group that was given. What is small and on the host goes by a group
    of gloo, so that no device is waited for. Who waits looks from time to time whether another rank
    has failed, and says so; what has failed is told through the group's store.

    Args:
        group: of torch.distributed, which has it; here it is not held.

    Attributes:
        rank: of this process in the group.
        size: of the group.
        lost: whether a rank has failed, after which nothing goes by the group.
        traffic: what has gone by it.
    """

    def __init__(self, group: Any) -> None:
        global _engines
        self._group, self._control = lightly(group), lightly(control_of(group))
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.lost, self.traffic = False, Traffic()
        self._store, self._under_way = store_of(group), dict[int, Any]()
        _engines += 1  # the same on all ranks, which make their engines in the same order
        self._engine = _engines

    @property
    def group(self) -> Any:
        """The group.

        Raises:
            RankError: it has been destroyed.
        """
        return self._there(self._group)

    @property
    def control(self) -> Any:
        """A group of gloo, of the same ranks; see `group`."""
        return self._there(self._control)

    # What goes by the group.

    def add_up(self, flat: Tensor) -> Begun:
        """Begin to add up a tensor over the ranks, in place.

        Args:
            flat: the tensor, of one shape and type on all ranks.

        Returns:
            What `wait` takes.
        """
        return self._begin(dist.all_reduce, flat)

    def line_up(self, tensors: Sequence[Tensor], own: Tensor) -> Begun:
        """Begin to collect a tensor of every rank; see `add_up`.

        Args:
            tensors: take those of the ranks.
            own: of this one.

        Returns:
            What `wait` takes.
        """
        return self._begin(dist.all_gather, own, tensors)

    def join(self, whole: Tensor, own: Tensor) -> Begun:
        """Begin to put tensors of one shape one behind the other in `whole`; see `add_up`."""
        return self._begin(_JOIN, own, whole)

    def add_apart(self, own: Tensor, whole: Tensor) -> Begun:
        """Begin to add up a tensor of which each rank keeps its piece, `own`; see `add_up`."""
        return self._begin(_ADD_APART, whole, own)

    def hand_out(self, tensor: Tensor) -> Begun:
        """Begin to give everybody the first rank's tensor, in place; see `add_up`."""

        def broadcast(tensor: Tensor, **how: Any) -> Any:
            return dist.broadcast(tensor, dist.get_global_rank(self.group, 0), **how)

        return self._begin(broadcast, tensor)

    def exchange(self, numbers: Sequence[float]) -> list[list[float]]:
        """Some numbers of every rank: as many on all, on the host."""
        return [t.tolist() for t in self._gather(torch.tensor(numbers, dtype=torch.float64))]

    def collect(self, thing: Any) -> list[Any]:
        """Something of every rank, pickled."""
        data = torch.frombuffer(bytearray(pickle.dumps(thing)), dtype=torch.uint8)
        sizes = [int(n) for (n,) in self.exchange([len(data)])]
        own = torch.zeros(max(sizes), dtype=torch.uint8)
        own[: len(data)] = data
        each = self._gather(own)
        return [pickle.loads(t[:n].numpy().tobytes()) for t, n in zip(each, sizes, strict=True)]

    # Waiting, and failing.

    def begin(self) -> None:
        """What an engine is asked for begins, on all ranks alike.

        Raises:
            RankError: a rank has failed before.
        """
        if self.lost:
            raise RankError(
                "A rank of this engine has failed, after which it takes no more steps. Make it "
                "anew, or start all processes again: run(resume=folder) goes on from the last "
                "checkpoint.",
                rank=self.rank,
            )

    def wait(self, begun: Begun) -> None:
        """Wait until something that was begun is done, or have the device that does it wait.

        Args:
            begun: what `add_up` and the others gave.

        Raises:
            RankError: a rank has failed.
        """
        while True:
            try:
                begun.work.wait(*([] if begun.away else [_PATIENCE]))
                self._under_way.pop(id(begun.work), None)
                return
            except RuntimeError as error:
                if begun.away or not any(said in str(error) for said in _WAITING):
                    self._mourn(error)
            self.listen()

    def reached(self, device: torch.device) -> None:
        """Wait until a device is done with what it was given: others may have to join in.

        Args:
            device: the device.

        Raises:
            RankError: a rank has failed.
        """
        if device.type != "cuda":
            return
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(device))
        asked = time.monotonic()
        while not event.query():
            if time.monotonic() - asked > _PATIENCE.total_seconds():
                self.listen()
                asked = time.monotonic()
            time.sleep(1e-4)

    def tell(self, error: BaseException) -> None:
        """Let the others know that this rank has failed: they wait for it, or will.

        Args:
            error: what was raised.
        """
        if self.lost or isinstance(error, RankError):
            return
        self._leave()
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        with contextlib.suppress(Exception):
            self._store.set(self._key("error"), pickle.dumps((self.rank, said[:4000])))
            self._store.set(self._key(f"heard/{self.rank}"), b"1")  # it has an error of its own
            if dist.get_rank() == 0 and isinstance(error, Exception):
                self._await("heard", _FAREWELL)  # the store may be this process's, and end with it

    def listen(self) -> None:
        """Raise if another rank has told that it has failed.

        Raises:
            RankError: it has.
        """
        told = self._heard("error")
        if told is not None:
            rank, said = told
            self._end()
            raise RankError(f"rank {rank} of {self.size} has failed: {said}", rank=rank)

    def _begin(self, collective: Any, own: Tensor, *others: Any, group: Any = None) -> Begun:
        group = self.group if group is None else group
        self.traffic.note(own)
        try:
            work = collective(*others, own, group=group, async_op=True)
        except RuntimeError as error:
            self._mourn(error)
        away = own.device.type != "cpu" and not has_gloo(group, own.device)
        if not away:  # of those that nobody waits for, in a step that has failed on all ranks
            for key in [k for k, each in self._under_way.items() if each.is_completed()]:
                del self._under_way[key]
            self._under_way[id(work)] = work
        return Begun(work, away)

    def _gather(self, own: Tensor) -> list[Tensor]:
        each = [torch.empty_like(own) for _ in range(self.size)]
        with purpose(ONCE if current() == ONCE else "agreement"):
            self.wait(self._begin(dist.all_gather, own, each, group=self.control))
        return each

    def _mourn(self, error: Exception) -> NoReturn:
        """A collective has failed: say which rank has gone.

        Raises:
            RankError: in any case.
        """
        if not any(said in str(error) for said in _GONE):
            self._end()
            raise RankError(
                f"rank {self.rank} of {self.size}: a collective has failed: {error}", rank=self.rank
            ) from error
        missing, told = self._call_the_roll()
        self._end()
        if told is not None:
            rank, said = told
            raise RankError(f"rank {rank} of {self.size} has failed: {said}", rank=rank) from error
        who = " and ".join(map(str, missing)) or "one that cannot be told"
        raise RankError(
            f"rank {who} of {self.size} is gone: its process was killed or has lost its "
            "connection. Nothing is saved now; the last checkpoint stands, and a start with any "
            "number of ranks goes on from it.",
            rank=missing[0] if missing else -1,
        ) from error

    def _call_the_roll(self) -> tuple[list[int], Any]:
        """The ranks that do not answer; or, before that, what one has told."""
        missing = [r for r in range(self.size) if r != self.rank]
        with contextlib.suppress(Exception):
            self._store.set(self._key(f"here/{self.rank}"), b"1")
            missing = self._await("here", _ROLL_CALL, lambda: self._heard("error") is not None)
        return missing, self._heard("error")

    def _await(
        self, name: str, seconds: float, ended: Callable[[], bool] = lambda: False
    ) -> list[int]:
        """Wait until the other ranks have set a key each; those that have not, in the end."""
        began, missing = time.monotonic(), [r for r in range(self.size) if r != self.rank]
        while missing and time.monotonic() - began < seconds and not ended():
            missing = [r for r in missing if not self._store.check([self._key(f"{name}/{r}")])]
            time.sleep(0.05)
        return missing

    def _heard(self, name: str) -> Any:
        with contextlib.suppress(Exception):  # the store may have gone with the first rank
            if self._store.check([self._key(name)]):
                told = pickle.loads(self._store.get(self._key(name)))
                self._store.set(self._key(f"heard/{self.rank}"), b"1")
                return told
        return None

    def _key(self, name: str) -> str:
        return f"mlopt/{self._engine}/{name}"

    def _end(self) -> None:
        """Have nothing wait for those that will not come."""
        self._leave()
        for group in (self._group(), self._control()):
            if hasattr(group, "abort") and dist.get_backend(group) != "gloo":
                with contextlib.suppress(Exception):
                    group.abort()

    def _leave(self) -> None:
        """Nothing more goes by the group; what is under way may wait for ever."""
        self.lost = True
        leave_for_ever([self._group(), self._control(), *self._under_way.values()])
        self._under_way.clear()

    def _there(self, lightly_held: Callable[[], Any]) -> Any:
        group = lightly_held()
        if group is None:
            raise RankError(
                f"rank {self.rank} of {self.size}: the process group of this engine has been "
                "destroyed, without which it takes no more steps. Call destroy_process_group() at "
                "the end of the program.",
                rank=self.rank,
            )
        return group

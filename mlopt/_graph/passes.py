"""`Passes`: an engine's own way through a loader, one pass after another."""

from __future__ import annotations

import operator
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .._containers.containers import own_copy, rebuilt
from .._containers.loaders import length_of
from .._replay import replay
from . import known
from .held import attributes, counts, holds
from .lent import Lent
from .living import Living
from .own_place import own_place, says_place, take_place
from .starts import Start, load_start, others_at, save_start, set_others
from .workers import Workers

__all__ = ["Passes"]

# Who is in the middle of a pass, by the identity of its iterator.
_running: Living[Passes] = Living()
_begun: Living[Passes] = Living()  # who has begun one


class Passes:
    """An engine's own passes through a loader, one after another, by the index of the batch.

    Nothing is drawn before it is asked for. Whether a pass has ended is asked after the step that
    used its batch, and known by the loader's length; where it has none, or all of it is drawn, the
    next batch is drawn then. A pass that is shorter than its loader's length is found when the
    missing batch is asked for: it is counted then, and the length not believed again.

    Where a draw fails, nobody knows where the iterator stands: the pass is gone through again, to
    the same batch, with the seeds, the generators and the number that it had.

    Args:
        loader: what is iterated.
        seed: (index of a batch) -> what torch's generators are set to while it is drawn.
        lenders: of the generators of the engine's loaders, see `Lent`.
    """

    def __init__(self, loader: Any, seed: Callable[[int], int], lenders: list[Lent]) -> None:
        self._loader = loader
        self._seed = seed
        self._plain = type(loader) in (list, tuple)  # which draws nothing
        self._lent = Lent(lenders)
        self._workers = Workers()
        self._parts: list[Any] = []
        self._told: list[Any] = []  # those that have `set_epoch`
        self._attributes: list[Any] = []  # of the parts, when looked for
        if not self._plain:
            self._look()
        self._iterator: Iterator[Any] | None = None
        self._ahead: list[Any] = []
        self._believed = True  # the loader's length
        self._length = 0  # of this pass, as the loader says it; 0: unknown
        self._starts = [Start(0, 0)]  # of this pass, and of those before that are still in use
        self._said = False  # that the loader changes under another's hands
        self._since = 0  # the index of the first batch that may be asked for again
        self._next = 0  # the index of the batch that comes next; -1: unknown

    def __getstate__(self) -> dict[str, Any]:
        # An iterator cannot be copied: a copy goes through the pass again, to the same batch.
        return {**vars(self), "_iterator": None, "_ahead": [], "_next": -1}

    def draw(self, index: int) -> tuple[Any, int]:
        """Go on to a batch, which is the one after the last but for accidents.

        Args:
            index: of the batch, over all passes.

        Returns:
            The batch, and the number of its pass.
        """
        if self._next != index:
            self._go_to(index)
        self._next = -1
        batch = self._take(index)
        self._next = index + 1
        return batch, self._starts[-1].number

    def passed(self, index: int, since: int) -> int:
        """How many passes end before a batch. It may have to be drawn to know.

        Args:
            index: of the batch that comes next.
            since: that of the first batch that may be asked for again.

        Returns:
            The number of passes.
        """
        self._since = since
        if self.unsure(index):
            self._next = -1
            self._ahead = self._advance(index)
            if not self._ahead:
                self._end(index)
            self._next = index
        return self._starts[-1].number

    def unsure(self, index: int) -> bool:
        """Whether nobody knows yet if a pass ends before the batch that comes next."""
        taken = index - self._starts[-1].index
        return taken > 0 and taken >= self._length and not self._ahead

    def stands(self, index: int) -> bool:
        """Whether the next batch is the one with this index: no draw has failed on the way."""
        return self._next == index

    def save(self, index: int) -> dict[str, Any]:
        """Where the passes stand, as it is saved: enough to go through the last one again.

        Args:
            index: of the batch that comes next.

        Returns:
            Tensors and plain values.
        """
        own = None
        if self._iterator is None and not self._plain:
            self._look()  # as the next pass does: a generator may be another
        if self._next == index and self._iterator is not None and not self._others():
            own = self._within(index, own_place, self._loader, self._iterator, self._ahead)
        return {
            "own": own,
            "believed": self._believed,
            "ahead": len(self._ahead),
            "generators": self._lent.save_all(),
            "starts": [save_start(start, self._lent, self._workers) for start in self._starts],
        }

    def differs(self, saved: Mapping[str, Any]) -> str:
        """How the loader is not the one of which this was saved; empty if it may be that."""
        here, there = len(self._lent.states), len(saved["generators"])
        if here != there:
            return f"has {there} generators of random numbers in it, not {here}"
        return ""

    def load(self, saved: Mapping[str, Any], index: int, drawn: int) -> list[tuple[Any, int]]:
        """Let them stand where those of another process did.

        A loader that has said where it stands goes there. Else the pass is gone through again, from
        where generators stood then, Python's and NumPy's among them.

        Args:
            saved: what `save` gave.
            index: of the batch that comes next.
            drawn: how many had been drawn that were not used.

        Returns:
            These, and the numbers of their passes.
        """
        starts = [load_start(found, self._lent, self._workers) for found in saved["starts"]]
        later = {start.index: start.others for start in starts if start.index > index}
        self._believed, self._starts = saved["believed"], starts[: len(starts) - len(later)]
        self._lent.load_all(saved["generators"])
        waiting: list[tuple[Any, int]] = []
        with others_at(self._starts[-1].others):
            self._go(index, saved["own"])
            self._next = index
            for i in range(index, index + drawn):
                set_others(later.get(i))
                waiting.append(self.draw(i))
            if saved["ahead"] and not self._ahead:
                self._ahead = self._advance(index + drawn)
        return waiting

    def _go(self, index: int, own: Mapping[str, Any] | None) -> None:
        """Go to a batch of the pass that has begun in another process."""
        start, states = self._starts[-1].index, self._lent.states
        if own is None or not says_place(self._loader):
            began = time.monotonic()
            self._replay(index)
            known.say_long(self._loader, index - start, time.monotonic() - began)
            return
        self._within(start, self._begin, lambda loader: take_place(loader, own))
        self._ahead = list(own["ahead"])
        self._lent.states = states

    def remember(self) -> Callable[[], None]:
        """What puts back where the passes stand now."""
        believed, starts, lent = self._believed, [*self._starts], self._lent.save_all()

        def put_back() -> None:
            self._next = -1  # so that the pass is gone through again
            self._believed, self._starts = believed, starts
            self._lent.load_all(lent)

        return put_back

    def _look(self) -> None:
        """See what the loader is made of, if a part of it is another than the last time."""
        found, last = attributes(self._parts), self._attributes
        if self._parts and len(found) == len(last) and all(map(operator.is_, found, last)):
            return
        generators, self._parts = holds(self._loader)
        self._lent.lend(generators)
        self._workers.lend(self._parts)
        self._told = [p for p in self._parts if callable(getattr(p, "set_epoch", None))]
        self._anew = known.makes_anew(self._loader)
        self._attributes = attributes(self._parts)

    def _take(self, index: int) -> Any:
        found = self._ahead or self._advance(index)
        self._ahead = []
        taken = index - self._starts[-1].index
        if not found and taken and not (taken < self._length and known.certain(self._loader)):
            length, self._believed = self._length, self._length <= taken and self._believed
            self._end(index)
            if length > taken:
                known.say_short(self._loader, taken, length)
            found, taken = self._advance(index), 0
        if not found:
            raise known.ended_early(self._loader, self._starts[-1].number, taken)
        return found[0]

    def _advance(self, index: int) -> list[Any]:
        """The next batch of the pass, in a list; an empty one at its end.

        It may wait for a step, and so has memory that the loader does not write over meanwhile.

        Returns:
            The list.
        """
        if self._plain:
            return self._pull(index)
        if self._iterator is None:
            self._look()
            if self._starts[-1].states is None:  # else the pass is gone through again
                self._lent.begin()
        found = self._within(index, self._pull, index)
        return found if self._anew else [rebuilt(batch, own_copy) for batch in found]

    def _within(self, index: int, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do something where the batch of this index is drawn: generators and workers are lent."""
        replayed = replay(self._seed(index))
        try:
            with replayed, self._lent, self._workers:
                return work(*arguments)
        finally:  # an interrupt may have kept them from ending
            self._workers.close()
            self._lent.close()
            replayed.close()

    def _pull(self, index: int) -> list[Any]:
        try:
            if self._iterator is None:
                return self._first()
            return [next(self._iterator)]
        except StopIteration:
            return []
        except Exception as error:
            start = self._starts[-1]
            known.say_where(error, self._loader, start.number, index - start.index)
            raise

    def _first(self) -> list[Any]:
        """Begin the pass, and see what the loader changes of itself by it."""
        before = counts(self._parts) if not self._said and self._others() else {}
        self._begin()
        assert self._iterator is not None
        found = [next(self._iterator)]
        told = {type(part).__name__ for part in self._told}
        after = counts(self._parts) if before else {}
        moved = [k for k, v in after.items() if before.get(k, v) != v and k[0] not in told]
        if moved:
            self._said = True
            known.say_moved(self._loader, moved)
        return found

    def _others(self) -> bool:
        """Whether others have begun a pass of the same loader."""
        return any(p is not self and p._loader is self._loader for p in _begun)

    def _begin(self, begin: Callable[[Any], Iterator[Any]] = iter) -> None:
        """Begin the pass, or go on in it, as loaders and samplers of torch are told of it."""
        self._check_free(self._loader)  # if it is its own iterator: `iter` may begin it anew
        start = self._starts[-1]
        if not self._plain and begin is iter:
            others = (random.getstate(), np.random.get_state())
            self._starts[-1] = replace(start, states=self._lent.states, others=others)
        for part in self._told:
            part.set_epoch(start.number)
        iterator = begin(self._loader)
        self._check_free(iterator)
        _running.put(id(iterator), self)
        _begun.put(id(self), self)
        self._length = (length_of(self._loader) or 0) if self._believed else 0
        self._iterator = iterator

    def _check_free(self, iterator: Any) -> None:
        """Refuse to go on in another's pass."""
        other = _running.get(id(iterator))
        if other is not None and other is not self and other._iterator is iterator:
            raise known.not_free(self._loader)

    def _end(self, index: int) -> None:
        """A pass has ended before the batch with this index."""
        _running.drop(id(self._iterator))
        self._iterator = None
        starts = self._starts
        while len(starts) > 1 and starts[1].index <= self._since:
            del starts[0]
        starts.append(Start(index, starts[-1].number + 1, self._workers.made))

    def _go_to(self, index: int) -> None:
        """Go back to the batch with this index."""
        while len(self._starts) > 1 and self._starts[-1].index > index:
            del self._starts[-1]
        with others_at(self._starts[-1].others):
            self._replay(index)

    def _replay(self, index: int) -> None:
        """Go through the pass again, up to the batch with this index."""
        start = self._starts[-1]
        self._iterator, self._ahead = None, []
        self._renew(start)
        if start.index == index:
            return
        if isinstance(self._loader, Iterator):
            known.say_again(self._loader)
        begin_after = getattr(self._loader, "begin_after", None)
        if callable(begin_after):  # as the loaders of mlopt.data have it: nothing is read again
            begin_after(index - start.index)
            self._ahead = self._advance(start.index)  # with the seed with which the pass began
            return
        for i in range(start.index, index):
            found = self._advance(i)
            if not found:
                raise known.ended_early(self._loader, start.number, i - start.index)

    def _renew(self, start: Start) -> None:
        """Have workers made anew, which may have died, and the generators where the pass begins."""
        states = self._lent.states if start.states is None else start.states
        replayed = replay(0)
        try:
            with others_at(None), replayed, self._lent:
                self._workers.renew(start.made)
        finally:
            self._lent.close()
            replayed.close()
            self._lent.states = states

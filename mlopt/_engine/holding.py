"""`Holding`: what an object leads to, followed anew only where other things are in it."""

from __future__ import annotations

import cmath
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import numpy as np
from torch import Tensor

from .._containers.contents import contents as contents_of
from .._evaluation.listing import Listing, same_things
from .copies import alike
from .reach import reach

__all__ = ["Holding", "Holdings", "Together"]

#: What leads nowhere.
_PLAIN = frozenset({type(None), bool, int, float, complex, str})
#: What copies itself as `contents_of` would.
_QUICK = frozenset({dict, defaultdict, list})
_MISSING: Any = object()
_joined = chain.from_iterable
_kind = attrgetter("dtype", "device")


class Holding:
    """What an optimizer or scheduler leads to, and what its containers held when last looked at.

    To follow it takes as long as a small step. But as long as the same things are in its containers
    it leads to the same things, and to see that takes little.

    Args:
        what: it is.
        name: what paths begin with.
        beside: what this leads to, too, is left to it.

    Attributes:
        reached: what it leads to.
        contents: of each container.
        ids: of all that can change.
    """

    def __init__(self, what: Any, name: str, beside: Holding | None = None) -> None:
        self.what, self.name, self._beside = what, name, beside
        self._follow()
        # Numbers that were not finite at the start, as a best loss is not, may be so again.
        self._open = {
            (id(held), key)
            for held, content in zip(self.reached.containers, self.contents, strict=True)
            for key, number in _entries(content)
            if _endless(number)
        }

    def _follow(self) -> None:
        beside = self._beside
        known = {} if beside is None else beside._known.copy()
        found = reach(self.what, self.name, known)
        copies = [*map(_copying, found.containers)]
        listed = Listing(found.containers, contents=contents_of)
        contents, inside = [copy() for copy in copies], listed()
        changing = (*found.tensors, *found.containers, *found.arrays, *found.random.values())
        ids = frozenset(map(id, changing))
        left = None if beside is None else beside.reached
        # At once: an interrupt comes between calls.
        self.reached, self.contents, self.ids = found, contents, ids
        self._copies, self._listed, self._inside = copies, listed, inside
        self._known, self._left = known, left

    def look(self) -> None:
        """Take what is there now."""
        inside = self._listed()
        leads = self.reached.sure and (self._beside is None or self._left is self._beside.reached)
        if leads and same_things(self._inside, inside):
            return
        contents = [copy() for copy in self._copies]
        if leads and all(map(_stands, self.contents, contents)):
            self.contents, self._inside = contents, inside
        else:
            self._follow()

    def news(self) -> tuple[list[Tensor], bool]:
        """Look again, and compare.

        Returns:
            The tensors that have come, and whether a number is not finite that was.
        """
        found, before = self.reached, self.contents
        if found.sure and same_things(self._inside, self._listed()):
            return [], False
        now = [copy() for copy in self._copies]
        spoilt = False
        for held, was, content in zip(found.containers, before, now, strict=True):
            for key, old, new in _changes(was, content):
                at = (id(held), key)
                if _endless(new) and not _endless(old) and at not in self._open:
                    if _is_number(old) or new != new:
                        spoilt = True
                    else:  # infinity where no number was is a start
                        self._open.add(at)
        self.look()
        if self.reached is found:
            return [], spoilt
        old = set(map(id, chain(found.tensors, found.containers, found.arrays)))
        for held, content in zip(self.reached.containers, self.contents, strict=True):
            for key, number in _entries(content) if id(held) not in old else ():
                spoilt = spoilt or (_endless(number) and number != number)
                if _endless(number):
                    self._open.add((id(held), key))
        spoilt = spoilt or any(_has_nan(a) for a in self.reached.arrays if id(a) not in old)
        return [t for t in self.reached.tensors if id(t) not in old], spoilt


class Together:
    """What several lead to, each thing once, where it is met first.

    Args:
        held: whose they are, and they, as they are now.
        tensors: others, and whose they are.
        known: ids of what is left out.

    Attributes:
        held: as given.
        contents: what the containers of each held, when last looked at.
        ids: of all that can change.
        owner: by the id of a tensor.
        groups: of tensors, to be copied together.
        containers: of each that is held its name, its containers, and the places of those meant.
        arrays: and whose they are.
        random: generators, and the paths to them.
    """

    def __init__(
        self,
        held: Sequence[tuple[Any, Holding]],
        tensors: Sequence[tuple[Any, Tensor]] = (),
        known: frozenset[int] = frozenset(),
    ) -> None:
        given = {id(t): (owner, t) for owner, t in reversed(tensors)}  # two may hold one
        seen = {*known, *given}
        found = [*reversed(given.values())]
        self.held = held
        self.containers: list[tuple[str, list[Any], list[int]]] = []
        self.arrays: list[tuple[Any, np.ndarray]] = []
        self.random: list[tuple[str, Any]] = []
        for owner, holding in held:
            reached, containers = holding.reached, holding.reached.containers
            found += [(owner, t) for t in reached.tensors if id(t) not in seen]
            places = [i for i, c in enumerate(containers) if id(c) not in seen]
            self.containers.append((holding.name, containers, places))
            self.arrays += [(owner, a) for a in reached.arrays if id(a) not in seen]
            self.random += [(p, g) for p, g in reached.random.items() if id(g) not in seen]
            seen |= holding.ids
        self.ids = frozenset(seen)
        self.owner = {id(t): owner for owner, t in found}
        self.groups = alike([t for _, t in found])
        self._mixed = [*chain.from_iterable(g for g in self.groups if len(g) > 1)]
        self._kinds = [*map(_kind, self._mixed)]
        self._reached = [holding.reached for _, holding in held]
        self._sure = all(reached.sure for reached in self._reached)
        self._listed = Listing(
            _joined(reached.containers for reached in self._reached), contents=contents_of
        )
        self.take()

    def take(self) -> None:
        """Take what the containers hold now."""
        contents = [holding.contents for _, holding in self.held]
        # At once: an interrupt comes between calls.
        self._inside, self.contents = self._listed(), contents

    def quiet(self) -> bool:
        """Whether the very same things are in the containers as when they were last looked at."""
        return (
            self._sure
            and same_things(self._inside, self._listed())
            and _same(self.contents, [holding.contents for _, holding in self.held])
        )

    def fits(self) -> bool:
        """Whether what is held leads to what it led to, and tensors still are of their kinds."""
        reached = [holding.reached for _, holding in self.held]
        return _same(self._reached, reached) and self.alike()

    def alike(self) -> bool:
        """Whether the tensors that are copied together still are of one kind."""
        return [*map(_kind, self._mixed)] == self._kinds

    def news(self) -> tuple[list[tuple[Any, Tensor]], Any]:
        """Look again, and compare.

        Returns:
            The tensors that have come, and whose they are; and whose numbers are not finite that
            were, the first of them, or None.
        """
        tensors: list[tuple[Any, Tensor]] = []
        spoilt = None
        if not self.quiet():
            for owner, holding in self.held:
                came, bad = holding.news()
                tensors += [(owner, t) for t in came]
                spoilt = spoilt or (owner if bad else None)
        return tensors, spoilt


class Holdings:
    """Those of an engine, from one step to the next; a copy of the engine finds its own."""

    def __deepcopy__(self, memo: Any) -> Holdings:
        return Holdings()

    def __init__(self) -> None:
        self._of: dict[tuple[Any, str], Holding] = {}
        self._asked: list[Any] = []
        self._together = Together([])

    def of(self, owner: Any, what: Any, name: str) -> Holding:
        """What something leads to now; what its owner's optimizer leads to is left to that.

        Args:
            owner: whose it is.
            what: an optimizer, or a scheduler, after the optimizer.
            name: it has there.

        Returns:
            What is known of it, up to date.
        """
        held = self._of.get((owner, name))
        if held is None or held.what is not what:
            first = self._of.get((owner, "optimizer")) if name != "optimizer" else None
            held = Holding(what, f"{owner.name}.{name}", first)
            self._of[owner, name] = held
        else:
            held.look()
        return held

    def together(
        self,
        owned: Sequence[tuple[Any, Any, str]],
        tensors: Sequence[tuple[Any, Tensor]] = (),
        known: frozenset[int] = frozenset(),
    ) -> Together:
        """What several lead to now, found anew only where one of them leads to other things.

        Args:
            owned: owner, object and name of each, as `of` takes them.
            tensors: others, and whose they are.
            known: ids of what is left out.

        Returns:
            All of it.
        """
        asked = [known, *_joined(owned), *_joined(tensors)]
        again, found = _same(self._asked, asked), self._together
        if again and found.quiet() and found.alike():
            return found
        held = [(owner, self.of(owner, what, name)) for owner, what, name in owned]
        if again and found.fits():
            found.take()
        else:
            found = Together(held, tensors, known)
            if not known:  # as it begins in every step
                self._together, self._asked = found, asked
        return found


def _copying(held: Any) -> Callable[[], Any]:
    """What gives a copy of what a container holds."""
    if type(held) in _QUICK:
        return held.copy
    return partial(dict if type(held) is OrderedDict else contents_of, held)


def _entries(content: Any) -> Iterator[tuple[Any, Any]]:
    """Keys and values of what a container has held; of a list places; none where there are none."""
    if isinstance(content, dict):
        yield from content.items()
    elif isinstance(content, list):
        yield from enumerate(content)


def _changes(was: Any, now: Any) -> Iterator[tuple[Any, Any, Any]]:
    """What has another value: its key, the old value, and the new one."""
    old = dict(_entries(was))
    for key, value in _entries(now):
        if (before := old.get(key, _MISSING)) is not value:
            yield key, before, value


def _same(was: list[Any], now: list[Any]) -> bool:
    """Whether two lists are of the very same things."""
    return len(was) == len(now) and all(map(is_, was, now))


def _stands(was: Any, now: Any) -> bool:
    """Whether a container leads to what it has led to."""
    if isinstance(now, dict):
        was, now = was.values(), now.values()
    elif isinstance(now, set):
        return set(map(id, was)) == set(map(id, now))
    return len(was) == len(now) and all(
        old is new or (_leads_nowhere(old) and _leads_nowhere(new))
        for old, new in zip(was, now, strict=True)
    )


def _leads_nowhere(held: Any) -> bool:
    kind = type(held)
    return kind in _PLAIN or (kind is tuple and all(type(part) in _PLAIN for part in held))


def _is_number(held: Any) -> bool:
    """Whether it is a number, or holds one."""
    if isinstance(held, tuple):
        return any(map(_is_number, held))
    return isinstance(held, int | float | complex | np.number)


def _has_nan(array: np.ndarray) -> bool:
    return array.dtype.kind in "fc" and bool(np.isnan(array).any())


def _endless(held: Any) -> bool:
    """Whether it is a number that is not finite, or holds one."""
    if isinstance(held, tuple):
        return any(map(_endless, held))
    return isinstance(held, float | complex | np.inexact) and not cmath.isfinite(held)

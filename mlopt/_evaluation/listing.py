"""`Listing`: what is in some containers, to be compared with what was there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from operator import is_
from typing import Any

__all__ = ["Listed", "Listing", "same_things"]

#: How many things are in each container, and all keys and things, one after another.
Listed = tuple[list[int], list[Any]]
_joined = chain.from_iterable


class Listing:
    """Lists what is in some containers: it is asked before each step, and takes little.

    Of dictionaries and lists it is read past what their classes override.

    Args:
        containers: whose keys and things are listed.
        named: whose keys alone are.
        contents: (container) -> a dictionary or list of what is in it, where it is neither.
    """

    def __init__(
        self,
        containers: Iterable[Any],
        named: Iterable[Any] = (),
        contents: Callable[[Any], Any] = dict,
    ) -> None:
        containers, named = [*containers], [*named]
        dicts = [c for c in containers if isinstance(c, dict)]
        lists = [c for c in containers if type(c) is list]
        # Views are made once: they show what is there whenever they are gone through.
        keys = [_kind(d).keys(d) for d in [*dicts, *(n for n in named if isinstance(n, dict))]]
        self._sized: list[Any] = [*keys, *lists]
        self._read = [*self._sized, *(_kind(d).values(d) for d in dicts)]
        self._others = [
            partial(contents, c)
            for c in containers
            if not isinstance(c, dict) and type(c) is not list
        ]
        self._others += [partial(_keys, n) for n in named if not isinstance(n, dict)]

    def __deepcopy__(self, memo: Any) -> Listing:
        """One of nothing: what it lists has to be found again."""
        return Listing(())

    def __call__(self) -> Listed:
        """What is there now."""
        sizes, found = [*map(len, self._sized)], [*_joined(self._read)]
        for read in self._others:
            content = read()
            sizes.append(len(content))
            found += (*content, *content.values()) if isinstance(content, dict) else content
        return sizes, found


def same_things(was: Listed, now: Listed) -> bool:
    """Whether the very same things are in the same containers."""
    return was[0] == now[0] and all(map(is_, was[1], now[1]))


def _kind(held: dict[Any, Any]) -> type[dict[Any, Any]]:
    """Whose methods show what a dictionary holds, in its order, which may have been changed."""
    return OrderedDict if isinstance(held, OrderedDict) else dict


def _keys(held: Any) -> list[Any]:
    return [*held.keys()]

"""`Presence`: which values there are on any rank, told without asking in every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from .ranks import Ranks
from .traffic import ONCE, purpose

__all__ = ["Presence"]

Found = tuple[int, ...]


class Presence:
    """The most that any rank has of each of some values, which may be nothing.

    A parameter that no rank uses has no gradient, and one that another rank alone uses has one. The
    ranks ask each other when a value is computed for the first time. From then on each takes it
    that the answer is the same, and notes where it has something else itself: whether any rank has
    noted anything goes with the decision at the end of a step (`odd`). Only then do they ask again
    (`clear`), and if the answer was another one, the step is taken again with that.

    Args:
        ranks: that are asked.

    Attributes:
        odd: whether this rank has noted anything.
        asked: how often it was asked, as often as the others.
        alone: whether this rank computes something by itself, and has all there is of it.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._known: dict[Hashable, Found] = {}
        self._seen: dict[Hashable, tuple[Found, Found]] = {}  # in this step: had, and assumed
        self._often: Counter[Hashable] = Counter()
        self.odd, self.asked, self.alone = False, 0, False

    def begin(self) -> None:
        """A step begins."""
        self._seen.clear()
        self._often.clear()
        self.odd, self.asked = False, 0

    def __call__(
        self, name: Hashable, there: Sequence[int], computes: bool = True
    ) -> Sequence[int]:
        """What any rank has of some values.

        Args:
            name: of what is computed; the second time in a step it is another one.
            there: what this rank has of each, as a number that grows with it.
            computes: whether this rank is to have anything, so that it can note what is odd.

        Returns:
            The most that any rank has.
        """
        if self.alone:
            return there
        self.asked += 1
        own: Found = tuple(there)
        key = (name, self._often[name])
        self._often[name] += 1
        known = self._known.get(key) or self._known.get((name, 0))
        if known is None or len(known) != len(own):
            with purpose(ONCE):
                known = self._known[key] = _most(self._ranks.collect(own))
        self._seen[key] = own, known
        self.odd |= computes and own != known
        return known

    def clear(self) -> bool:
        """Ask again for all of this step, which all ranks do.

        Returns:
            Whether the step has gone by another answer, so that it has to be taken again.
        """
        each = self._ranks.collect([own for own, _ in self._seen.values()])
        wrong = False
        found = zip(*each, strict=True)
        for (key, (_, assumed)), had in zip(self._seen.items(), found, strict=True):
            if (answer := _most(had)) != assumed:
                self._known[key], wrong = answer, True
        return wrong


def _most(each: Sequence[Found]) -> Found:
    return tuple(map(max, zip(*each, strict=True)))

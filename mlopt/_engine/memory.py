"""`Memory`: what objects hold, put back in place if it has to be."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._containers.contents import put, rewind
from .._tensors import grad_mode, numbers
from .copies import Copies, alike, joined, may_spoil
from .holding import Holdings, Together

__all__ = ["Memory"]

_NONE: frozenset[int] = frozenset()


class Memory:
    """What some objects hold now.

    `restore` puts it back in place: whoever has a reference to one of them, or to anything inside,
    sees the old values. Each object is remembered as it was when it was met first.

    Args:
        holdings: of the engine.

    Attributes:
        lost: what could not be put back although it seemed so: the error.
    """

    def __init__(self, holdings: Holdings) -> None:
        self.lost: dict[str, str] = {}
        self._holdings = holdings
        self._kept: list[tuple[Together, list[Any]]] = []  # with what containers held
        self._known: frozenset[int] = _NONE
        self._attributes: list[tuple[dict[str, Any], tuple[str, ...], Any]] = []
        self._undo: list[tuple[str, Callable[[], Any]]] = []
        self._copies: list[Copies] = []
        self._arrays: list[tuple[Any, np.ndarray, np.ndarray]] = []
        self._mute: dict[str, Any] = {}

    @property
    def bytes(self) -> int:
        """Of the copies of tensors."""
        return sum(copies.bytes for copies in self._copies)

    @property
    def closed(self) -> dict[str, str]:
        """What cannot be put back, by the path to it: its class."""
        found = {
            path: held
            for together, _ in self._kept
            for _, holding in together.held
            for path, held in holding.reached.closed.items()
        }
        found.update(self._mute)
        each = {id(held): path for path, held in reversed(found.items())}
        return {p: type(held).__name__ for p, held in found.items() if each[id(held)] == p}

    def keep(
        self, *owned: tuple[Any, Any, str], tensors: Sequence[tuple[Any, Tensor]] = ()
    ) -> None:
        """Remember what objects hold, and all that they lead to.

        Args:
            owned: whose it is, as `spoilt` will say; an optimizer or a scheduler; the name it has.
            tensors: others, and whose they are.
        """
        more = [(owner, t) for owner, t in tensors if id(t) not in self._known] if tensors else ()
        together = self._holdings.together(owned, more, self._known)
        self._kept.append((together, together.contents))
        self._known = self._known | together.ids if self._known else together.ids
        self._copies += map(Copies, together.groups)
        for owner, array in together.arrays:
            self._arrays.append((owner, array, array.copy()))
        for path, generator in together.random:
            try:
                self._undo.append((path, rewind(generator)))
            except Exception:  # one of the user's own, which does not tell
                self._mute[path] = generator

    def keep_attributes(self, held: Any, *names: str) -> None:
        """Remember which objects some attributes are; these are not followed."""
        attributes = vars(held)
        self._attributes.append((attributes, names, [*map(attributes.__getitem__, names)]))

    def news(self) -> tuple[list[tuple[Any, Tensor]], Any]:
        """What has come since it was remembered.

        Returns:
            New tensors and whose they are; and whose numbers on the host are not finite that were,
            the first of them, or None.
        """
        tensors: list[tuple[Any, Tensor]] = []
        spoilt = None
        for together, _ in self._kept:
            came, whose = together.news()
            if came:
                tensors += [(owner, t) for owner, t in came if id(t) not in self._known]
            spoilt = spoilt or whose
        for owner, array, before in self._arrays:
            if array.dtype.kind in "fc" and _is_spoilt(array, before):
                spoilt = spoilt or owner
        return tensors, spoilt

    def peaks(self, new: Sequence[Tensor]) -> list[Tensor]:
        """The least and greatest numbers of what is remembered, as it is now, and of what is new.

        One is not finite if anything is not. Other than a sum they do not overflow, and than the
        greatest absolute value they take a tenth of the time.

        Args:
            new: other tensors.

        Returns:
            A few scalars.
        """
        groups = [copies.tensors for copies in self._copies]
        groups += alike(new) if new else []
        with grad_mode(False):
            pieces = [
                numbers(joined(group) if len(group) > 1 else group[0])
                for group in groups
                if may_spoil(group[0])
            ]
            return [*chain.from_iterable(map(_ends, pieces))]

    def spoilt(
        self, new: Sequence[tuple[Any, Tensor]], among: Container[int] | None = None
    ) -> list[tuple[Any, str, Tensor]]:
        """What is not finite that was, or is new: masks of -inf that were there may stay.

        Args:
            new: other tensors, and whose they are.
            among: look at those that are remembered with these ids alone.

        Returns:
            Owners; "update", or "state" where something new is infinite; and boolean scalars on
            their devices.
        """
        owner = {i: o for together, _ in self._kept for i, o in together.owner.items()}
        flags = [
            (owner[id(t)], "update", flag)
            for copies in self._copies
            for t, flag in copies.spoilt()
            if among is None or id(t) in among
        ]
        for owner_of_new, t in new:
            if may_spoil(t):
                held = numbers(t)
                flags.append((owner_of_new, "update", torch.isnan(held).any()))
                flags.append((owner_of_new, "state", torch.isinf(held).any()))
        return flags

    def tensors(self) -> Iterator[Tensor]:
        """All that are remembered."""
        return (t for copies in self._copies for t in copies.tensors)

    def knows(self, tensor: Tensor) -> bool:
        """Whether a tensor is remembered."""
        return id(tensor) in self._known

    def restore(self) -> None:
        """Put everything back. It can be interrupted, and called again.

        What cannot be put back keeps nothing else from it, and is noted.
        """
        with torch.no_grad():
            for copies in self._copies:
                self._try("tensors", copies.restore)
            for _, array, before in self._arrays:
                self._try("an array", partial(_put_back, array, before))
            for attributes, names, values in reversed(self._attributes):
                attributes.update(zip(names, values, strict=True))
            for name, undo in reversed(self._undo):
                self._try(name, undo)
            for together, held in reversed(self._kept):
                for (name, containers, places), contents in zip(
                    reversed(together.containers), reversed(held), strict=True
                ):
                    for i in reversed(places):
                        self._try(name, partial(put, containers[i], contents[i]))

    def _try(self, name: str, undo: Callable[[], Any]) -> None:
        try:
            undo()
        except Exception as error:
            self.lost[name] = f"{type(error).__name__}: {error}"


def _ends(t: Tensor) -> Sequence[Tensor]:
    """The least and greatest number; of nothing two that are finite, as on other ranks."""
    return torch.aminmax(t) if t.numel() else [t.new_zeros(())] * 2


def _put_back(array: np.ndarray, before: np.ndarray) -> None:
    if array.shape != before.shape:
        array.resize(before.shape, refcheck=False)
    np.copyto(array, before)


def _is_spoilt(array: np.ndarray, before: np.ndarray) -> bool:
    """Whether a number in an array is not finite now that was; of another shape, any."""
    if array.shape == before.shape:
        return bool((np.isfinite(before) & ~np.isfinite(array)).any())
    return bool(np.isfinite(before).all() and not np.isfinite(array).all())

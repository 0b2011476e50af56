"""`Memory`: what objects hold, put back in place if it has to be."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors

from .contents import put, rewind
from .holding import Holding, Holdings
from .reach import Reached

__all__ = ["Memory"]


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
        self._held: list[tuple[Any, Holding]] = []
        self._known: set[int] = set()
        self._contents: list[tuple[str, list[Any], list[Any]]] = []
        self._undo: list[tuple[str, Callable[[], Any]]] = []
        self._copies: list[_Copies] = []
        self._owner: dict[int, Any] = {}
        self._arrays: list[tuple[Any, np.ndarray, np.ndarray]] = []
        self._mute: dict[str, Any] = {}

    @property
    def bytes(self) -> int:
        """Of the copies of tensors."""
        return sum(copies.bytes for copies in self._copies)

    @property
    def closed(self) -> dict[str, str]:
        """What cannot be put back, by the path to it: its class."""
        found = {path: held for _, h in self._held for path, held in h.reached.closed.items()}
        found.update(self._mute)
        each = {id(held): path for path, held in reversed(found.items())}
        return {p: type(held).__name__ for p, held in found.items() if each[id(held)] == p}

    def keep(
        self, *owned: tuple[Any, Any, str], tensors: Iterable[tuple[Any, Tensor]] = ()
    ) -> None:
        """Remember what objects hold, and all that they lead to.

        Args:
            owned: whose it is, as `spoilt` will say; an optimizer or a scheduler; the name it has.
            tensors: others, and whose they are.
        """
        known = self._known
        copied: list[Tensor] = []
        for owner, tensor in tensors:
            if id(tensor) not in known:
                known.add(id(tensor))
                copied.append(tensor)
                self._owner[id(tensor)] = owner
        for owner, what, name in owned:
            holding = self._holdings.of(owner, what, name)
            self._held.append((owner, holding))
            found, new = holding.reached, holding.reached.tensors
            containers, contents = found.containers, holding.contents
            if not known.isdisjoint(holding.ids):  # that was remembered as it was met first
                new = [t for t in new if id(t) not in known]
                held = [
                    (container, content)
                    for container, content in zip(containers, contents, strict=True)
                    if id(container) not in known
                ]
                containers, contents = [c for c, _ in held], [content for _, content in held]
            copied += new
            self._owner.update(dict.fromkeys(map(id, new), owner))
            self._contents.append((name, containers, contents))
            if found.arrays or found.random:
                self._keep_more(owner, found)
            known |= holding.ids
        self._copies += map(_Copies, _alike(copied))

    def _keep_more(self, owner: Any, found: Reached) -> None:
        """Remember arrays and generators of random numbers."""
        new = (a for a in found.arrays if id(a) not in self._known)
        self._arrays += [(owner, a, a.copy()) for a in new]
        for path, generator in found.random.items():
            try:
                if id(generator) not in self._known:
                    self._undo.append((path, rewind(generator)))
            except Exception:  # one of the user's own, which does not tell
                self._mute[path] = generator

    def keep_attributes(self, held: Any, *names: str) -> None:
        """Remember which objects some attributes are; these are not followed."""
        values = {name: getattr(held, name) for name in names}
        self._undo.append((type(held).__name__, partial(vars(held).update, values)))

    def news(self) -> tuple[list[tuple[Any, Tensor]], Any]:
        """What has come since it was remembered.

        Returns:
            New tensors and whose they are; and whose numbers on the host are not finite that were,
            the first of them, or None.
        """
        tensors: list[tuple[Any, Tensor]] = []
        spoilt = None
        for owner, holding in self._held:
            came, bad = holding.news()
            tensors += [(owner, t) for t in came if id(t) not in self._known]
            spoilt = spoilt or (owner if bad else None)
        for owner, array, before in self._arrays:
            if array.dtype.kind in "fc" and (np.isfinite(before) & ~np.isfinite(array)).any():
                spoilt = spoilt or owner
        return tensors, spoilt

    def peaks(self, new: Sequence[Tensor]) -> list[Tensor]:
        """The greatest numbers of what is remembered, as it is now, and of what is new.

        They are not finite if anything is not.

        Args:
            new: other tensors.

        Returns:
            A few scalars.
        """
        groups = [copies.tensors for copies in self._copies] + _alike(new)
        joined = [
            _joined(group) if len(group) > 1 else group[0].detach()
            for group in groups
            if _may_spoil(group[0])
        ]
        return [torch.linalg.vector_norm(t, torch.inf) for t in joined if t.numel()]

    def spoilt(
        self, new: Sequence[tuple[Any, Tensor]], among: Container[int] | None = None
    ) -> list[tuple[Any, Tensor]]:
        """What is not finite that was, or is new: masks of -inf that were there may stay.

        Args:
            new: other tensors, and whose they are.
            among: look at those that are remembered with these ids alone.

        Returns:
            Owners, and boolean scalars on their devices.
        """
        flags = [
            (self._owner[id(t)], flag)
            for copies in self._copies
            for t, flag in copies.spoilt()
            if among is None or id(t) in among
        ]
        flags += [
            (owner, torch.isfinite(t).all().logical_not_()) for owner, t in new if _may_spoil(t)
        ]
        return flags

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
                self._try("an array", partial(np.copyto, array, before))
            for name, undo in reversed(self._undo):
                self._try(name, undo)
            for name, containers, contents in reversed(self._contents):
                for held, content in zip(reversed(containers), reversed(contents), strict=True):
                    self._try(name, partial(put, held, content))

    def _try(self, name: str, undo: Callable[[], Any]) -> None:
        try:
            undo()
        except Exception as error:
            self.lost[name] = f"{type(error).__name__}: {error}"


_shape, _grad, _is_leaf = attrgetter("shape"), attrgetter("grad"), attrgetter("is_leaf")


class _Copies:
    """Tensors of one kind and their values, in one piece."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self.shapes = [*map(_shape, tensors)]
        self.places = [*map(Tensor.data_ptr, tensors)] if _plain(tensors[0]) else []  # or all
        self.values = _joined(tensors)
        self.grads = [*map(_grad, filter(_is_leaf, tensors))]  # of frozen ones, too

    @property
    def bytes(self) -> int:
        return self.values.numel() * self.values.element_size()

    def spoilt(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each tensor, and whether a number in it is not finite now that was."""
        if _may_spoil(self.tensors[0]):
            for t, before in zip(self.tensors, self.apart(), strict=True):
                if t.shape == before.shape:
                    bad = torch.isfinite(t).logical_not_()
                    yield t, bad.logical_and_(torch.isfinite(before)).any()

    def apart(self) -> list[Tensor]:
        """The values of each tensor."""
        if len(self.tensors) == 1:
            return [self.values]
        pieces = self.values.split([shape.numel() for shape in self.shapes])
        return [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def restore(self) -> None:
        for tensor, grad in zip(filter(_is_leaf, self.tensors), self.grads, strict=True):
            tensor.grad = grad
        values = self.apart()
        for i, (tensor, value) in enumerate(zip(self.tensors, values, strict=True)):
            moved = self.places and tensor.data_ptr() != self.places[i]
            if moved or tensor.shape != value.shape:  # it was given other memory
                tensor.data = value.clone()
        once = [*map(_once, self.tensors, values)]
        torch._foreach_copy_([t for t, _ in once], [v for _, v in once])


def _plain(tensor: Tensor) -> bool:
    return type(tensor) in _PLAIN and tensor.layout is torch.strided


def _once(tensor: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """A tensor and its value, of numbers that it repeats (as `expand` does) one each."""
    if tensor.layout is not torch.strided or 0 not in tensor.stride():
        return tensor, value
    first = tuple(slice(None) if step else slice(1) for step in tensor.stride())
    return tensor[first], value[first]


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """A copy of the numbers of tensors of one kind: of several, one after another."""
    values = [t.detach() for t in tensors]
    return _flatten_dense_tensors(values) if len(values) > 1 else values[0].clone()


_PLAIN = frozenset({Tensor, nn.Parameter})
#: Tensors of as many numbers are copied in one piece, which saves calls.
_SMALL = 4096


def _alike(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Tensors by dtype and device; large ones, and what is no plain array, each by itself."""
    # One piece of all would be new to the allocator; a copy of a large one fits where others were.
    if len(tensors) < 2:
        return [[*tensors]] if tensors else []
    groups: dict[Any, list[Tensor]] = {}
    for t in tensors:
        joins = _plain(t) and t.numel() <= _SMALL
        groups.setdefault((t.dtype, t.device) if joins else id(t), []).append(t)
    return list(groups.values())


#: What may hold infinity, and what torch takes norms of.
_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64,
                     torch.complex64, torch.complex128})  # fmt: skip


def _may_spoil(tensor: Tensor) -> bool:
    return tensor.dtype in _FLOATS

"""`Memory`: what objects hold, put back in place if it has to be."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors

from .reach import reach, slots

__all__ = ["Memory"]


class Memory:
    """What some objects hold now.

    `restore` puts it back in place: whoever has a reference to one of them, or to anything inside,
    sees the old values. Each object is remembered as it was when it was met first.

    Attributes:
        closed: what cannot be put back, by the path to it: its class.
        bytes: of the copies of tensors.
    """

    def __init__(self) -> None:
        self.closed: dict[str, str] = {}
        self.bytes = 0
        self._known: dict[int, Any] = {}  # and kept alive, so that no other object gets its id
        self._contents: list[tuple[Any, Any]] = []
        self._undo: list[Callable[[], Any]] = []
        self._copies: list[_Copies] = []
        self._owner: dict[int, Any] = {}

    def keep(self, *owned: tuple[Any, Any, str]) -> None:
        """Remember what objects hold, and all that it leads to.

        Args:
            owned: whose it is, as `spoilt` will say; an optimizer, a scheduler, a list of tensors;
                and what `closed` calls it.
        """
        tensors: list[Tensor] = []
        for owner, what, name in owned:
            found = reach(what, name, self._known)
            tensors += found.tensors
            self._owner.update(dict.fromkeys(map(id, found.tensors), owner))
            self._contents += [
                (c, dict(c) if isinstance(c, dict) else list(c)) for c in found.containers
            ]
            self._undo += [partial(np.copyto, array, array.copy()) for array in found.arrays]
            self._undo += map(_random, found.random)
            self._undo += [partial(_assign, held, slots(held)) for held in found.slotted]
            self.closed.update(found.closed)
        with torch.no_grad():
            copies = [_Copies(group) for group in _alike(tensors)]
        self.bytes += sum(copy.bytes for copy in copies)
        self._copies += copies

    def keep_attributes(self, held: Any, *names: str) -> None:
        """Remember which objects some attributes are; these are not followed."""
        self._undo.append(partial(_assign, held, {name: getattr(held, name) for name in names}))

    def peaks(self, new: Mapping[int, tuple[Any, Tensor]]) -> list[Tensor]:
        """The greatest numbers of what is remembered, as it is now, and of what is new.

        They are not finite if anything is not.

        Args:
            new: other tensors, by id, and whose they are.

        Returns:
            A few scalars.
        """
        groups = [copies.tensors for copies in self._copies] + _alike(t for _, t in new.values())
        joined = [
            _joined(group) if len(group) > 1 else group[0].detach()
            for group in groups
            if _may_spoil(group[0])
        ]
        return [torch.linalg.vector_norm(t, torch.inf) for t in joined if t.numel()]

    def spoilt(self, new: Mapping[int, tuple[Any, Tensor]]) -> list[tuple[Any, Tensor]]:
        """What is not finite that was, or is new: masks of -inf that were there may stay.

        Args:
            new: other tensors, by id, and whose they are.

        Returns:
            Owners, and boolean scalars on their devices.
        """
        flags = [flag for copies in self._copies for flag in copies.spoilt(self._owner)]
        flags += [
            (owner, torch.isfinite(t).all().logical_not_())
            for owner, t in new.values()
            if _may_spoil(t)
        ]
        return flags

    def knows(self, tensor: Tensor) -> bool:
        """Whether a tensor is remembered."""
        return id(tensor) in self._owner

    def restore(self) -> None:
        """Put everything back. It can be interrupted, and called again."""
        with torch.no_grad():
            for undo in reversed(self._undo):
                undo()
            for held, content in reversed(self._contents):
                held.clear()
                (held.update if isinstance(held, dict | set) else held.extend)(content)
            for copies in self._copies:
                copies.restore()


class _Copies:
    """Tensors of one kind and their values, in one piece."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self.shapes = [t.shape for t in tensors]
        self.values = _joined(tensors)
        self.grads = [(t, t.grad) for t in tensors if t.is_leaf]  # of frozen ones, too

    @property
    def bytes(self) -> int:
        return self.values.numel() * self.values.element_size()

    def spoilt(self, owner: Mapping[int, Any]) -> list[tuple[Any, Tensor]]:
        """For each tensor, whose it is and whether a number in it is not finite now that was."""
        if not _may_spoil(self.tensors[0]):
            return []
        return [
            (
                owner[id(t)],
                torch.isfinite(t).logical_not_().logical_and_(torch.isfinite(before)).any(),
            )
            for t, before in zip(self.tensors, self.apart(), strict=True)
            if t.shape == before.shape
        ]

    def apart(self) -> list[Tensor]:
        """The values of each tensor."""
        if len(self.tensors) == 1:
            return [self.values]
        pieces = self.values.split([shape.numel() for shape in self.shapes])
        return [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def restore(self) -> None:
        values = self.apart()
        for tensor, value in zip(self.tensors, values, strict=True):
            if tensor.shape != value.shape:  # it was given other memory
                tensor.data = value.clone()
        torch._foreach_copy_(self.tensors, values)
        for tensor, grad in self.grads:
            tensor.grad = grad


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """A copy of the numbers of tensors of one kind: of several, one after another."""
    return _flatten_dense_tensors(tensors) if len(tensors) > 1 else tensors[0].detach().clone()


#: Tensors of as many numbers are copied in one piece, which saves calls.
_SMALL = 4096


def _alike(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Tensors by dtype and device; large ones, and what is no plain array, each by itself."""
    # One piece of all would be new to the allocator; a copy of a large one fits where others were.
    groups: dict[Any, list[Tensor]] = {}
    for t in tensors:
        plain = type(t) in (Tensor, nn.Parameter) and t.layout is torch.strided
        plain = plain and t.numel() <= _SMALL
        groups.setdefault((t.dtype, t.device) if plain else id(t), []).append(t)
    return list(groups.values())


#: What may hold infinity, and what torch takes norms of.
_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64,
                     torch.complex64, torch.complex128})  # fmt: skip


def _may_spoil(tensor: Tensor) -> bool:
    return tensor.dtype in _FLOATS


def _assign(held: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(held, name, value)


def _random(held: Any) -> Callable[[], Any]:
    """What puts a generator of random numbers back to where it stands."""
    if isinstance(held, torch.Generator):
        return partial(held.set_state, held.get_state())
    if isinstance(held, random.Random):
        return partial(held.setstate, held.getstate())
    if isinstance(held, np.random.RandomState):
        return partial(held.set_state, held.get_state())
    bits = held.bit_generator
    return partial(setattr, bits, "state", bits.state)

"""`Memory`: what objects hold, put back in place if it has to be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors

from .contents import contents, put, rewind
from .reach import reach

__all__ = ["Memory"]


class Memory:
    """What some objects hold now.

    `restore` puts it back in place: whoever has a reference to one of them, or to anything inside,
    sees the old values. Each object is remembered as it was when it was met first.

    Attributes:
        closed: what cannot be put back, by the path to it: its class.
        lost: what could not be put back although it seemed so: the error.
        bytes: of the copies of tensors.
    """

    def __init__(self) -> None:
        self.closed: dict[str, str] = {}
        self.lost: dict[str, str] = {}
        self.bytes = 0
        self._known: dict[int, Any] = {}  # and kept alive, so that no other object gets its id
        self._contents: list[tuple[str, Any, Any]] = []
        self._undo: list[tuple[str, Callable[[], Any]]] = []
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
                (name, c, _QUICK.get(type(c), contents)(c)) for c in found.containers
            ]
            self._undo += [(name, partial(np.copyto, a, a.copy())) for a in found.arrays]
            for path, generator in found.random.items():
                try:
                    self._undo.append((path, rewind(generator)))
                except Exception:  # one of the user's own, which does not tell
                    found.closed[path] = type(generator).__name__
            self.closed.update(found.closed)
        with torch.no_grad():
            copies = [_Copies(group) for group in _alike(tensors)]
        self.bytes += sum(copy.bytes for copy in copies)
        self._copies += copies

    def keep_attributes(self, held: Any, *names: str) -> None:
        """Remember which objects some attributes are; these are not followed."""
        values = {name: getattr(held, name) for name in names}
        self._undo.append((type(held).__name__, partial(vars(held).update, values)))

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
        """Put everything back. It can be interrupted, and called again.

        What cannot be put back keeps nothing else from it, and is noted.
        """
        with torch.no_grad():
            for copies in self._copies:
                self._try("tensors", copies.restore)
            for name, undo in reversed(self._undo):
                self._try(name, undo)
            for name, held, content in reversed(self._contents):
                self._try(name, partial(put, held, content))

    def _try(self, name: str, undo: Callable[[], Any]) -> None:
        try:
            undo()
        except Exception as error:
            self.lost[name] = f"{type(error).__name__}: {error}"


#: What `contents` does with those that are met in every step.
_QUICK: dict[type, Callable[[Any], Any]] = {
    dict: dict.copy, defaultdict: dict.copy, list: list.copy,
}  # fmt: skip


class _Copies:
    """Tensors of one kind and their values, in one piece."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self.shapes = [t.shape for t in tensors]
        # A group of several is one of plain tensors.
        self.places = [t.data_ptr() for t in tensors] if _plain(tensors[0]) else []
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
        for tensor, grad in self.grads:
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
    return _flatten_dense_tensors(tensors) if len(tensors) > 1 else tensors[0].detach().clone()


_PLAIN = frozenset({Tensor, nn.Parameter})
#: Tensors of as many numbers are copied in one piece, which saves calls.
_SMALL = 4096


def _alike(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Tensors by dtype and device; large ones, and what is no plain array, each by itself."""
    # One piece of all would be new to the allocator; a copy of a large one fits where others were.
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

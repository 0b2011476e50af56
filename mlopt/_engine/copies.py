"""`Copies`: values of tensors, kept in as few pieces as serve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors

__all__ = ["Copies", "alike", "joined", "may_spoil"]

_grad, _is_leaf = attrgetter("grad"), attrgetter("is_leaf")


class Copies:
    """Tensors of one kind and their values, in one piece."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self.views = [*map(Tensor.detach, tensors)]  # of the memory that they have now
        self.values = joined(self.views)
        self.leaves = [*filter(_is_leaf, tensors)]
        self.grads = [*map(_grad, self.leaves)]  # of frozen ones, too

    @property
    def bytes(self) -> int:
        return self.values.numel() * self.values.element_size()

    def spoilt(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each tensor, and whether a number in it is not finite now that was."""
        if may_spoil(self.tensors[0]):
            for t, before in zip(self.tensors, self.apart(), strict=True):
                if t.shape == before.shape:
                    bad = torch.isfinite(t).logical_not_()
                    yield t, bad.logical_and_(torch.isfinite(before)).any()

    def apart(self) -> list[Tensor]:
        """The values of each tensor."""
        if len(self.tensors) == 1:
            return [self.values]
        pieces = self.values.split([*map(Tensor.numel, self.views)])
        return [piece.view_as(t) for piece, t in zip(pieces, self.views, strict=True)]

    def restore(self) -> None:
        for tensor, grad in zip(self.leaves, self.grads, strict=True):
            tensor.grad = grad
        values = self.apart()
        for tensor, view, value in zip(self.tensors, self.views, values, strict=True):
            plain = _plain(view)
            moved = plain and tensor.data_ptr() != view.data_ptr()
            if moved or tensor.shape != view.shape:  # it was given other memory
                tensor.data = view if plain else value.clone()
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


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """A copy of the numbers of tensors of one kind: of several, one after another.

    Args:
        tensors: one or more; no gradients are recorded where this is called.

    Returns:
        A tensor of one dimension, or of the shape of the only one.
    """
    return _flatten_dense_tensors(tensors) if len(tensors) > 1 else tensors[0].clone()


_PLAIN = frozenset({Tensor, nn.Parameter})
#: Tensors of as many numbers are copied in one piece, which saves calls.
_SMALL = 4096


def alike(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
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


def may_spoil(tensor: Tensor) -> bool:
    """Whether a tensor is of numbers that may be other than finite."""
    return tensor.dtype in _FLOATS

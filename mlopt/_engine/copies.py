"""`Copies`: values of tensors, kept in as few pieces as serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors

from .._evaluation.layouts import copy, copy_into, extent, form, plain, size
from .._tensors import FLOAT8, numbers

__all__ = ["Copies", "alike", "joined", "may_spoil", "spoils"]

_grad, _is_leaf, _learns = map(attrgetter, ("grad", "is_leaf", "requires_grad"))


class Copies:
    """Tensors of one kind and their values, in one piece."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self.views = [*map(Tensor.detach, tensors)]  # of the memory that they have now
        self.values = joined(self.views)
        self.leaves = [*filter(_is_leaf, tensors)]
        self.grads = [*map(_grad, self.leaves)]  # of frozen ones, too
        self.learn = [*map(_learns, self.leaves)]

    @property
    def bytes(self) -> int:
        return size(self.values)

    def spoilt(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each tensor, and whether a number in it is not finite now that was.

        In one of another shape any such number counts, if all were finite.

        Yields:
            Tensors, and flags on their devices.
        """
        if may_spoil(self.tensors[0]):
            for t, before in zip(self.tensors, self.apart(), strict=True):
                yield t, _newly(t, before)

    def apart(self) -> list[Tensor]:
        """The values of each tensor."""
        if len(self.tensors) == 1:
            return [self.values]
        pieces = self.values.split([*map(Tensor.numel, self.views)])
        return [piece.view_as(t) for piece, t in zip(pieces, self.views, strict=True)]

    def restore(self) -> None:
        """Put all back, each thing whatever becomes of the others; then raise the first error."""
        errors: list[Exception] = []
        undo: list[Callable[[], Any]] = [
            partial(_put_back, tensor, view, value)
            for tensor, view, value in zip(self.tensors, self.views, self.apart(), strict=True)
        ]
        # Memory before gradients, which have to be of its shape.
        for tensor, grad, learns in zip(self.leaves, self.grads, self.learn, strict=True):
            undo.append(partial(tensor.requires_grad_, learns))
            undo.append(partial(setattr, tensor, "grad", grad))
        for step in undo:
            try:
                step()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]


def _put_back(tensor: Tensor, view: Tensor, value: Tensor) -> None:
    """Let a tensor have the memory of a view again, and a value there."""
    if _plain(view):
        here = tensor.data_ptr() == view.data_ptr() and tensor.stride() == view.stride()
        if not here or tensor.shape != view.shape or tensor.dtype != view.dtype:
            tensor.data = view
    elif form(tensor) != form(view):
        tensor.data = value.clone()
    copy_into(*_once(tensor, value))


def _plain(tensor: Tensor) -> bool:
    return type(tensor) in _PLAIN and plain(tensor)


def _once(tensor: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """A tensor and its value, of numbers that it repeats (as `expand` does) one each."""
    if tensor.layout is not torch.strided or tensor.is_nested or 0 not in tensor.stride():
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
    if len(tensors) == 1:
        return copy(tensors[0])
    if {*map(Tensor.dim, tensors)} == {1}:  # flat as they are
        return torch.cat(tensors)  # type: ignore[arg-type]
    return _flatten_dense_tensors(tensors)


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


#: What may hold infinity or nan.
_FLOATS = FLOAT8 | {torch.float16, torch.bfloat16, torch.float32, torch.float64,
                    torch.complex32, torch.complex64, torch.complex128}  # fmt: skip


def spoils(now: Tensor, before: Tensor | None) -> Tensor:
    """Whether a buffer is spoilt in whose place another one was.

    One that begins, or has another shape than before, may begin at infinity: it may be a mask, made
    where it is first needed.

    Args:
        now: the buffer.
        before: what was in its place.

    Returns:
        A flag on its device.
    """
    if before is None or extent(before) != extent(now):
        return torch.isnan(numbers(now)).any()
    return _newly(now, before)


def _newly(now: Tensor, before: Tensor) -> Tensor:
    """Whether a number is not finite that was; where they are of other shapes, any, if all were."""
    was, bad = (torch.isfinite(numbers(x)) for x in (before, now))
    if was.shape == bad.shape:
        return bad.logical_not_().logical_and_(was).any()
    return bad.all().logical_not_().logical_and_(was.all())


def may_spoil(tensor: Tensor) -> bool:
    """Whether a tensor is of numbers that may be other than finite."""
    return tensor.dtype in _FLOATS and not tensor.is_meta

"""`Shard`: a tensor of which each rank has some rows, and its way to the whole and back.

A function that reads the whole tensor is a function of the rows of all ranks,

    W = gather(w_0, w_1, ...),    y_r = f_r(W),    dy/dw_r = rows_r( sum_s f_s'(W)^T c_s ),

so the adjoint of the gather adds the ranks' cotangents up and leaves each its rows. The adjoint of
that is the gather again, and so on to any order. Where all ranks compute the same f, their
cotangents are the same, and are not added: each takes its rows.

The whole tensor is there while a layer computes. What autograd would keep of it is the rows, of
which it is gathered again: see `packed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from .ranks import Ranks
from .shared_sums import current
from .traffic import purpose

__all__ = ["Shard", "gathered", "packed", "sequence"]

#: Of what was gathered and scattered, in this order: the same on all ranks, or something is wrong.
_sequence = 0


def sequence() -> int:
    """A number for all that was gathered in this block of `packed`, in its order."""
    return _sequence


def _goes(number: int) -> None:
    global _sequence
    _sequence = (31 * _sequence + number + 1) % 1_000_003


@dataclass(frozen=True, eq=False)
class Shard:
    """How the rows of a tensor lie on ranks: evenly, the first ones first, the last has the rest.

    Attributes:
        shape: of the whole tensor.
        sizes: how many rows each rank has.
        ranks: they.
        number: among those of an engine.
    """

    shape: tuple[int, ...]
    sizes: tuple[int, ...]
    ranks: Ranks
    number: int = 0

    @classmethod
    def of(cls, shape: Sequence[int], ranks: Ranks, number: int = 0) -> Shard:
        """The shard of a tensor of this shape, as `torch.chunk` cuts it."""
        each = -(-shape[0] // ranks.size)
        ends = [min(each * r, shape[0]) for r in range(ranks.size + 1)]
        sizes = tuple(b - a for a, b in zip(ends, ends[1:], strict=False))
        return cls(tuple(shape), sizes, ranks, number)

    @property
    def start(self) -> int:
        """Where the rows of this rank begin."""
        return sum(self.sizes[: self.ranks.rank])

    @property
    def own(self) -> int:
        """How many rows this rank has."""
        return self.sizes[self.ranks.rank]

    def rows(self, whole: Tensor) -> Tensor:
        """This rank's rows of the whole tensor, a view."""
        return whole.narrow(0, self.start, self.own)

    def gather(self, rows: Tensor) -> Tensor:
        """The whole tensor, which all ranks ask for at once; without a graph."""
        _goes(2 * self.number)
        each, row = self.sizes[0], self.shape[1:]
        own = rows.detach()
        if self.own < each:
            own = rows.new_zeros((each, *row))
            own[: self.own] = rows.detach()
        whole = rows.new_empty((each * len(self.sizes), *row))
        with purpose("shards"):
            self.ranks.wait(self.ranks.join(whole, own.contiguous()))
        return whole.narrow(0, 0, self.shape[0])

    def scatter(self, whole: Tensor) -> Tensor:
        """This rank's rows of the sum over ranks, which all ask for at once; without a graph."""
        _goes(2 * self.number + 1)
        each, row = self.sizes[0], self.shape[1:]
        padded = whole.detach().contiguous()
        if each * len(self.sizes) > self.shape[0]:
            padded = whole.new_zeros((each * len(self.sizes), *row))
            padded[: self.shape[0]] = whole.detach()
        rows = whole.new_empty((each, *row))
        with purpose("shards"):
            self.ranks.wait(self.ranks.add_apart(rows, padded))
        return rows.narrow(0, 0, self.own)


def gathered(rows: Tensor, shard: Shard) -> Tensor:
    """The whole tensor, with its place in the graph of the rows; all ranks ask for it at once.

    Args:
        rows: of this rank.
        shard: how they lie.

    Returns:
        The tensor. In an evaluation that ranks make together, of which each has a part, the
        derivative by the rows is the sum over ranks; else it is the same on all.
    """
    # The rows are seen to be read, by whoever watches what a function reads.
    return _Gather.apply(rows.view_as(rows), shard, current() is not None)


class _Gather(torch.autograd.Function):
    """The rows of all ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, shard: Shard, apart: bool) -> Any:
        ctx.shard, ctx.apart = shard, apart
        whole = shard.gather(rows)
        _note(whole, rows, shard)
        return whole

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        whole = cotangent.to_dense() if cotangent.is_sparse else cotangent
        back = _Scatter if ctx.apart else _Rows
        return back.apply(whole, ctx.shard), None, None


class _Scatter(torch.autograd.Function):
    """This rank's rows of the sum of what the ranks have."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, shard: Shard) -> Any:
        ctx.shard = shard
        return shard.scatter(whole)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        return _Gather.apply(cotangent, ctx.shard, True), None


class _Rows(torch.autograd.Function):
    """This rank's rows of what is the same on all."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, shard: Shard) -> Any:
        ctx.shard = shard
        return shard.rows(whole).clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        return _Gather.apply(cotangent, ctx.shard, False), None


class _Whole(NamedTuple):
    """A whole tensor that somebody still has, and what it was gathered of."""

    memory: StorageWeakRef
    rows: Tensor
    shard: Shard


#: By the address of what torch knows of their memory, which no other has while it is listed here.
_whole: dict[int, _Whole] = {}


def _note(whole: Tensor, rows: Tensor, shard: Shard) -> None:
    for gone in [k for k, held in _whole.items() if held.memory.expired()]:
        del _whole[gone]
    memory = whole.untyped_storage()
    _whole[memory._cdata] = _Whole(StorageWeakRef(memory), rows.detach(), shard)


class _Packed(NamedTuple):
    """What is kept in place of a view of a whole tensor."""

    rows: Tensor
    shard: Shard
    view: tuple[Any, Any, Any]


def _pack(tensor: Tensor) -> Any:
    plain = tensor.layout is torch.strided
    held = _whole.get(tensor.untyped_storage()._cdata) if plain and _whole else None
    if held is None or tensor.dtype != held.rows.dtype:
        return tensor.detach()  # a tensor with its graph would keep itself for ever
    view = tensor.size(), tensor.stride(), tensor.storage_offset()
    return _Packed(held.rows, held.shard, view)


def _unpack(held: Any) -> Tensor:
    if not isinstance(held, _Packed):
        return held
    whole = held.shard.gather(held.rows)
    _note(whole, held.rows, held.shard)
    return whole.as_strided(*held.view)


@contextmanager
def packed(on: bool = True) -> Iterator[None]:
    """In a block, graphs keep rows in place of what was gathered of them.

    Args:
        on: False leaves the block as any other.
    """
    if not on:
        yield
        return
    global _sequence
    _sequence = 0
    hooks: Callable[..., Any] = saved_tensors_hooks
    with hooks(_pack, _unpack):
        try:
            yield
        finally:
            _whole.clear()

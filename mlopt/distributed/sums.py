"""`Sums`: the one place where tensors are added up over ranks, and counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .._tensors import continuous, real
from . import traffic
from .ranks import Begun, Ranks

__all__ = ["Sums"]

#: A collective carries so many bytes at the most, so that one is under way while others are made.
_BUCKET = 32 * 2**20


class Sums:
    """Sums over the ranks of an engine.

    Tensors of one type and device go together, in as few collectives as there can be. What nobody
    reads before the end of a step waits for it: see `later`.

    Args:
        ranks: of the engine.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._later: list[Tensor] = []

    def now(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sum over ranks of each of some tensors.

        Args:
            tensors: of the same shapes and types on all ranks.

        Returns:
            Tensors of their own memory.
        """
        out = list(tensors)
        dense = [i for i, t in enumerate(out) if not t.is_sparse]
        for group in _alike([out[i] for i in dense]):
            places = [dense[i] for i in group]
            for i, total in zip(places, self._added([out[i] for i in places]), strict=True):
                out[i] = total
        for i, t in enumerate(out):
            if t.is_sparse:
                out[i] = self._sparse(t)
        return out

    def later(self, tensors: Sequence[Tensor]) -> None:
        """Let some tensors become their sums over ranks, in place, at the next `settle`.

        Args:
            tensors: of this rank, which have memory of their own. Of whole numbers, all are zero
                but on one rank.
        """
        self._later += [t.detach() for t in tensors]

    @property
    def waiting(self) -> bool:
        """Whether anything waits for `settle`."""
        return bool(self._later)

    @property
    def first(self) -> Tensor:
        """The first of what waits, or a number on the host."""
        return self._later[0] if self._later else torch.zeros(())

    def settle(self) -> None:
        """Add up all that waits for it: one collective for each type of floating-point numbers."""
        waiting, self._later = self._later, []
        with torch.no_grad(), traffic.purpose("decision"):
            sent = [t if continuous(t) else _in_thirds(t, waiting) for t in waiting]
            for t, total in zip(waiting, self.now(sent), strict=True):
                t.copy_(total if continuous(t) else _of_thirds(total))

    def forget(self) -> None:
        """Drop what waits: the step is not taken."""
        self._later = []

    def lined_up(self, tensor: Tensor, sizes: Sequence[int]) -> Tensor:
        """The rows of all ranks, those of the first one first.

        Args:
            tensor: the rows of this rank.
            sizes: how many each has.

        Returns:
            The tensor with all rows.
        """
        most = max(sizes)
        own = tensor.new_zeros((most, *tensor.shape[1:]))
        own[: tensor.shape[0]] = tensor
        each = [torch.empty_like(own) for _ in sizes]
        self.ranks.wait(self.ranks.line_up(each, own))
        return torch.cat([t[:n] for t, n in zip(each, sizes, strict=True)])

    def _added(self, tensors: list[Tensor]) -> list[Tensor]:
        """The sums of tensors of one type and device: they go in buckets, one after another."""
        begun: list[tuple[Begun, Tensor, list[Tensor]]] = []
        for bucket in _buckets(tensors):
            flat = torch.cat([real(t).reshape(-1) for t in bucket])
            begun.append((self.ranks.add_up(flat), flat, bucket))
        out: list[Tensor] = []
        for work, flat, bucket in begun:
            self.ranks.wait(work)
            sizes = [t.numel() * (2 if t.is_complex() else 1) for t in bucket]
            for t, piece in zip(bucket, flat.split(sizes), strict=True):
                out.append(_shaped(piece, t))
        return out

    def _sparse(self, tensor: Tensor) -> Tensor:
        """The sum of sparse tensors: what each has, one behind the other."""
        held = tensor.coalesce()
        indices, values = held.indices().t().contiguous(), held.values()
        sizes = [int(n) for (n,) in self.ranks.exchange([len(indices)])]
        rows, numbers = self.lined_up(indices, sizes), self.lined_up(values, sizes)
        return torch.sparse_coo_tensor(rows.t(), numbers, tensor.shape, check_invariants=False)


def _alike(tensors: Sequence[Tensor]) -> list[list[int]]:
    """The places of tensors of one type on one device."""
    found: dict[Any, list[int]] = {}
    for i, t in enumerate(tensors):
        found.setdefault((t.dtype, t.device), []).append(i)
    return list(found.values())


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for t in tensors:
        own = t.numel() * t.element_size()
        if bucket and size + own > _BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(t)
        size += own
    if bucket:
        yield bucket


#: Whole numbers go as three floating-point ones, of which each holds so many bits exactly.
_BITS = 20


def _in_thirds(whole: Tensor, beside: Sequence[Tensor]) -> Tensor:
    """Whole numbers as numbers of the type that goes beside them."""
    wide = (torch.float32, torch.float64)
    types = (t.dtype for t in beside if t.device == whole.device and t.dtype in wide)
    t = whole.to(torch.int64)
    thirds = [t >> (2 * _BITS), (t >> _BITS) & ((1 << _BITS) - 1), t & ((1 << _BITS) - 1)]
    return torch.stack(thirds).to(next(types, torch.float32))


def _of_thirds(thirds: Tensor) -> Tensor:
    """The inverse of `_in_thirds`."""
    high, middle, low = thirds.to(torch.int64)
    return (high << (2 * _BITS)) + (middle << _BITS) + low


def _shaped(flat: Tensor, like: Tensor) -> Tensor:
    # With the memory layout, in whose order what is computed of it is added up. Views of the bucket
    # would moreover count their versions together, and keep all of it.
    if like.is_complex():
        flat = torch.view_as_complex(flat.view(-1, 2))
    return torch.empty_like(like).copy_(flat.view(like.shape))

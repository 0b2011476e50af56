"""`Sums`: the one place where tensors are added up over ranks, and counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors

from .._tensors import continuous, real
from . import traffic
from .ranks import Begun, Ranks

__all__ = ["Sums", "sparse"]

#: A collective carries so many bytes at the most, so that one is under way while others are made.
_BUCKET = 32 * 2**20
#: What is to be there soon is sent when it is as much as that, or when it is asked for.
_WORTH = 2**20
_Row = TypeVar("_Row", bound=tuple[Any, ...])


class Sums:
    """Sums over the ranks of an engine.

    Tensors of one type and device go together, in as few collectives as there can be. What is read
    after something else has been computed is on its way meanwhile: see `soon`. What nobody reads
    before the end of a step waits for it: see `later`.

    Args:
        ranks: of the engine.

    Attributes:
        deferring: whether a block of `deferred` has been entered.
        alone: whether this rank computes something by itself, to which no other adds anything.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.deferring, self.alone = ranks, False, False
        self._later: list[Tensor] = []
        # Of each collective of a step that has begun, the sum of this rank's numbers; else None.
        self._given: list[Tensor] | None = None
        # What is to be added up, where the sum goes, and what it is for; what is on its way.
        self._soon: list[tuple[Tensor, Tensor, str]] = []
        self._size = 0
        self._under_way: list[tuple[Begun, Tensor, list[Tensor]]] = []

    def now(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sum over ranks of each of some tensors.

        Args:
            tensors: of the same shapes and types on all ranks.

        Returns:
            Tensors of their own memory.
        """
        out = list(tensors)
        if self.alone:
            return out
        dense = [i for i, t in enumerate(out) if not t.is_sparse]
        for group in _alike([out[i] for i in dense]):
            places = [dense[i] for i in group]
            for i, total in zip(places, self._added([out[i] for i in places]), strict=True):
                out[i] = total
        for i, t in enumerate(out):
            if t.is_sparse:
                out[i] = self._sparse(t)
        return out

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A block in which derivatives are there soon: after the next `arrive`.

        Each is taken by leaves of the caller, each of which one evaluation alone reads.
        """
        before, self.deferring = self.deferring, True
        try:
            yield
        finally:
            self.deferring = before

    def soon(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sums over ranks of some dense tensors, which are there after `arrive`.

        Args:
            tensors: of the same shapes and types on all ranks.

        Returns:
            Tensors of their own memory, which nobody may read before.
        """
        if self.alone:
            return [*tensors]
        totals = [torch.empty_like(t) for t in tensors]
        what = traffic.current()
        self._soon += [(t, total, what) for t, total in zip(tensors, totals, strict=True)]
        self._size += sum(map(_bytes, tensors))
        if self._size >= _WORTH:
            self._send()
        return totals

    def arrive(self) -> None:
        """Wait for all sums that are to be there soon."""
        if self.alone:
            return
        if self._soon:
            self._send()
        under_way, self._under_way = self._under_way, []
        with torch.no_grad():
            for work, flat, totals in under_way:
                self.ranks.wait(work)
                torch._foreach_copy_(totals, _pieces(flat, totals))

    def _send(self) -> None:
        """Have what was given to `soon` on its way."""
        waiting, self._soon, self._size = self._soon, [], 0
        for group in _alike([t for t, _, _ in waiting]):
            for bucket in _buckets([waiting[i] for i in group]):
                with traffic.purpose(bucket[0][2]):
                    flat = _flat([t for t, _, _ in bucket])
                    totals = [total for _, total, _ in bucket]
                    self._under_way.append((self._begin(flat), flat, totals))

    def later(self, tensors: Sequence[Tensor]) -> None:
        """Let some tensors become their sums over ranks, in place, at the next `settle`.

        Args:
            tensors: of this rank, which have memory of their own. Of whole numbers, all are zero
                but on one rank.
        """
        if not self.alone:
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
        """Drop what waits, of a step that has ended; what is on its way goes there."""
        self._later, self._soon, self._size, self._under_way = [], [], 0, []
        self._given = None

    def begin(self) -> None:
        """A step begins, to whose end it is known what this rank gave; see `first_spoilt`."""
        self._given = []

    def first_spoilt(self) -> int | None:
        """The first collective of this step to which this rank gave something not finite.

        From then on nothing is finite on any rank, so that it tells who began.

        Returns:
            Its place among them, the same on all ranks; None if there is none.
        """
        with torch.no_grad():
            for i, total in enumerate(self._given or ()):
                if not bool(torch.isfinite(total)):
                    return i
        return None

    def _begin(self, flat: Tensor) -> Begun:
        if self._given is not None:
            self._given.append(flat.detach().sum(dtype=_wide(flat.dtype)))
        return self.ranks.add_up(flat)

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
        for bucket in _buckets([(t,) for t in tensors]):
            held = [t for (t,) in bucket]
            flat = _flat(held)
            begun.append((self._begin(flat), flat, held))
        out: list[Tensor] = []
        for work, flat, held in begun:
            self.ranks.wait(work)
            # With the memory layout, in whose order what is computed of it is added up.
            totals = [torch.empty_like(t) for t in held]
            torch._foreach_copy_(totals, _pieces(flat, held))
            out += totals
        return out

    def _sparse(self, tensor: Tensor) -> Tensor:
        """The sum of sparse tensors: what each has, one behind the other."""
        held = tensor.coalesce()
        indices, values = held.indices().t().contiguous(), held.values()
        sizes = [int(n) for (n,) in self.ranks.exchange([len(indices)])]
        rows, numbers = self.lined_up(indices, sizes), self.lined_up(values, sizes)
        return sparse(rows.t(), numbers, tensor.shape)


def sparse(indices: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    """A sparse tensor, of indices that are right: torch need not warn that it has not looked."""
    with torch.sparse.check_sparse_tensor_invariants(False):
        return torch.sparse_coo_tensor(indices, values, shape)


def _alike(tensors: Sequence[Tensor]) -> list[list[int]]:
    """The places of tensors of one type on one device."""
    found: dict[Any, list[int]] = {}
    for i, t in enumerate(tensors):
        found.setdefault((t.dtype, t.device), []).append(i)
    return list(found.values())


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Of a sum that does not overflow where its numbers are far from it."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _buckets(tensors: Sequence[_Row]) -> Iterator[list[_Row]]:
    """Rows that begin with a tensor, in groups of so many bytes at the most."""
    bucket: list[_Row] = []
    size = 0
    for row in tensors:
        own = _bytes(row[0])
        if bucket and size + own > _BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(row)
        size += own
    if bucket:
        yield bucket


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """The numbers of some tensors, one behind the other, in memory of their own."""
    alone = len(tensors) == 1  # of which torch's function gives an alias
    flat = tensors[0].reshape(-1).clone() if alone else _flatten_dense_tensors(tensors)
    return real(flat).reshape(-1)


def _pieces(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The inverse: views in the shapes of these tensors."""
    if like[0].is_complex():
        flat = torch.view_as_complex(flat.view(-1, 2))
    return [*map(Tensor.view_as, flat.split([*map(Tensor.numel, like)]), like)]


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

"""A batch in parts: where it is cut, and how much each part weighs in a mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._containers.rows import count_rows, even, take_rows
from .._errors import DataError
from .._graph.node import Node
from .._graph.signal import split
from .._tensors import continuous

__all__ = ["Pieces", "cut", "cut_rows", "shares", "times"]


@dataclass(frozen=True)
class Pieces:
    """The parts of one batch.

    Attributes:
        batches: one for each part; None for nodes without data.
        sizes: samples in each part; None where a function of the user's has made them, and it
            cannot be told.
        weights: of each part in a mean; their sum is one.
        others: the sizes by its other loaders, where it has several.
        total: what all of them together count: samples, or what the user counts; 0 where that is
            not known.
    """

    batches: Sequence[Any]
    sizes: Sequence[int] | None
    weights: Sequence[Any]
    others: Sequence[Sequence[int]] = ()
    total: Any = 0

    def __len__(self) -> int:
        return len(self.batches)

    def rows(self, node: Node, source: Any, t: Tensor, i: int, so: str) -> Tensor:
        """The rows of a signal's value that go with a part.

        Args:
            node: that reads it.
            source: the signal.
            t: its value, or a part of it.
            i: which part.
            so: what follows where they have no parts in common, for the message.

        Returns:
            The rows, a view.

        Raises:
            DataError: the batch has not as many samples as the value has rows.
        """
        known = [s for s in (self.sizes, *self.others) if s is not None]
        sizes = next((s for s in known if sum(s) == t.shape[0]), None)
        if sizes is None:
            has = " and ".join(str(sum(s)) for s in known) or "an unknown number of"
            raise DataError(
                f"{node.name}: its batch has {has} samples, and the value of {source.name} "
                f"{t.shape[0]} rows, so that {so}. Give the reader the signal's loader too, "
                "data=(its own, the signal's); or one of them split=False."
            )
        return t.narrow(0, sum(sizes[:i]), sizes[i])


def shares(sizes: Sequence[int]) -> list[float]:
    """The weights of parts by their samples; a lone part has all of it, even if it has none.

    Args:
        sizes: samples in each part.

    Returns:
        The weights.
    """
    return [1.0] if len(sizes) == 1 else [n / sum(sizes) for n in sizes]


def cut_rows(node: Node, signals: Mapping[Any, Any], count: int) -> Pieces | None:
    """The parts of a node without a batch: of the rows of the signals that it reads.

    Args:
        node: the node.
        signals: with a row for each sample, and their values.
        count: how many parts; there are fewer where there are fewer rows.

    Returns:
        The parts; None where there are no rows.

    Raises:
        DataError: the signals have not as many rows each.
    """
    tensors = (t for s, value in signals.items() for t in split(value, s.name).values())
    lengths = {t.shape[0] for t in tensors}
    if not lengths:
        return None
    if len(lengths) > 1:
        raise DataError(
            f"{node.name}: reads signals of {' and '.join(map(str, sorted(lengths)))} samples, "
            "which have no parts in common. Give it split=False."
        )
    sizes = even(lengths.pop(), count)
    return Pieces([None] * len(sizes), sizes, shares(sizes), total=sum(sizes))


def cut(node: Node, batch: Any, parts: int, most: int | None = None) -> Pieces:
    """A node's batch in parts.

    Args:
        node: says how its batch is split, and what a part counts.
        batch: of its streams; a tuple where it has a tuple of them.
        parts: how many; there are fewer where the batch has fewer samples.
        most: so many samples are taken alone, by default all.

    Returns:
        The parts.

    Raises:
        DataError: it cannot be told where to cut.
    """
    own: Any = node.split
    others: Sequence[Sequence[int]] = ()
    if callable(own):
        made: Any = own(batch, parts)
        batches: list[Any] = list(made)
        if not batches:
            raise DataError(f"{node.name}: split= returned no part of the batch.")
        weights: Sequence[Any] = [1 / len(batches)] * len(batches)
        try:
            sizes = [_samples(node, b, 0) for b in batches]
            weights = shares(sizes)
        except DataError:
            if node.count is None and node.combine != "sum" and len(batches) > 1:
                raise
            sizes = None
    else:
        dim = 0 if own is None else int(own)
        streams = list(batch) if node.data_is_tuple else [batch]
        samples = [_samples(node, b, dim) for b in streams]
        count = min(len(even(n, parts)) for n in samples)
        each = [even(min(n, most or n), count) for n in samples]
        sizes, *others = each
        columns = [_cut(b, n, s, dim) for b, n, s in zip(streams, samples, each, strict=True)]
        batches = [*zip(*columns, strict=True)] if node.data_is_tuple else columns[0]
        weights = shares(sizes)
        if node.count is None and node.combine != "sum":
            _check_shares(node, samples, each)
    total: Any = 0 if sizes is None else sum(sizes)
    if node.count is not None:
        weights, total = _counted(node, node.count, batches)
    return Pieces(batches, sizes, weights, others, total)


def _counted(
    node: Node, count: Callable[[Any], Any], batches: Sequence[Any]
) -> tuple[list[Any], Any]:
    """The weights of parts by what the user counts in each, and what that is in all."""
    counts = [count(b) for b in batches]
    for n in counts:
        number = isinstance(n, int | float) or (isinstance(n, Tensor) and n.dim() == 0)
        if not number or isinstance(n, bool):
            raise DataError(
                f"{node.name}: count= returned {n!r}; it returns how much a part of the batch "
                "counts in the mean, a number."
            )
    counts = [_wide(n) if isinstance(n, Tensor) else n for n in counts]
    total: Any = sum(counts[1:], counts[0])
    if not isinstance(total, Tensor) and total == 0:
        raise DataError(f"{node.name}: by its count= all parts of the batch together count 0.")
    return [n / total for n in counts], total


def _wide(count: Tensor) -> Tensor:
    wide = torch.float32 if count.device.type == "mps" else torch.float64
    return count.detach().to(wide)


def times(value: Any, weight: Any) -> Any:
    """A number or a tensor, in its own type, times the weight of a part."""
    if isinstance(weight, Tensor) and isinstance(value, Tensor) and continuous(value):
        weight = weight.to(value.dtype.to_real())
    return value * weight


def _samples(node: Node, batch: Any, dim: int) -> int:
    """How many samples a batch has."""

    def refuse(problem: str) -> DataError:
        return DataError(
            f"{node.name}: its batch {problem}, so that Engine(parts=) cannot tell how to split "
            "it. Give the problem or signal split=: a dimension, a function (batch, parts) -> list "
            "of parts, or False, which takes the batch whole."
        )

    return count_rows(batch, dim, refuse)


def _cut(batch: Any, samples: int, sizes: Sequence[int], dim: int) -> list[Any]:
    """The parts of what a loader gave: views of its tensors."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [take_rows(batch, samples, a, n, dim) for a, n in zip(starts, sizes, strict=True)]


def _check_shares(node: Node, samples: Sequence[int], each: Sequence[Sequence[int]]) -> None:
    """Every stream gives the parts the same weights, or there is no one mean over them."""
    for n, sizes in zip(samples[1:], each[1:], strict=True):
        if any(s * samples[0] != first * n for s, first in zip(sizes, each[0], strict=True)):
            raise DataError(
                f"{node.name}: its loaders gave {samples[0]} and {n} samples, which fall into "
                f"parts of {list(each[0])} and {list(sizes)}: a mean over parts would weigh them "
                "differently. Give batch sizes that parts= divides (drop_last=True), count= for "
                "the weight of a part, or split=False."
            )

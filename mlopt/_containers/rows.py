"""The rows of a batch, one for each sample: how many there are, and some of them alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .containers import opened, rebuilt

__all__ = ["count_rows", "even", "join_rows", "take_rows"]


def even(samples: int, parts: int) -> list[int]:
    """So many samples in parts that differ by one at the most, the larger ones first.

    Args:
        samples: how many.
        parts: into how many; fewer where there are not as many samples.

    Returns:
        The sizes.
    """
    count = max(1, min(samples, parts))
    each, more = divmod(samples, count)
    return [each + (i < more) for i in range(count)]


def count_rows(batch: Any, dim: int, refuse: Callable[[str], Exception]) -> int:
    """How many samples a batch has.

    Args:
        batch: whatever a loader gives.
        dim: of its tensors and arrays, in which the samples lie.
        refuse: (what is wrong with the batch) -> the error that is raised.

    Returns:
        The number.
    """
    found = opened(batch)
    held = [*found.tensors, *found.arrays]
    strided = [t.layout == torch.strided and not t.is_nested for t in found.tensors]
    lengths = {t.shape[dim] for t, s in zip(held, strided, strict=False) if s and t.ndim > dim}
    lengths |= {a.shape[dim] for a in found.arrays if a.ndim > dim}
    if len(lengths) == 1 and all(strided):
        return lengths.pop()
    if not all(strided):
        problem = "holds sparse or nested tensors"
    elif not lengths:
        problem = f"holds no tensor with a dimension {dim}"
    else:
        problem = f"holds tensors of {', '.join(map(str, sorted(lengths)))} in dimension {dim}"
    raise refuse(problem)


def take_rows(batch: Any, samples: int, start: int, size: int, dim: int) -> Any:
    """Some rows of a batch, in the containers in which it came: views of its tensors.

    Args:
        batch: whatever a loader gives.
        samples: how many it has.
        start: the first that is taken.
        size: how many are taken.
        dim: of its tensors and arrays, in which the samples lie.

    Returns:
        The rows; what has none is as it is.
    """
    listed = _listed(samples)

    def leaf(held: Any) -> Any:
        if isinstance(held, Tensor) and held.dim() > dim:
            return held.narrow(dim, start, size)
        if isinstance(held, np.ndarray) and held.ndim > dim:
            return held[(slice(None),) * dim + (slice(start, start + size),)]
        return held[start : start + size] if listed(held) else held

    return rebuilt(batch, leaf, listed)


def join_rows(batches: Sequence[Any], sizes: Sequence[int]) -> Any:
    """One batch of several, whose rows come one behind the other: the inverse of `take_rows`.

    Args:
        batches: of the same form.
        sizes: samples in each.

    Returns:
        The batch.
    """
    leaves: list[list[Any]] = []
    for batch, samples in zip(batches, sizes, strict=True):
        own: list[Any] = []
        rebuilt(batch, lambda held, own=own: own.append(held) or held, _listed(samples))
        leaves.append(own)
    columns = iter(zip(*leaves, strict=True))

    def leaf(held: Any) -> Any:
        each = next(columns)
        if isinstance(held, Tensor) and held.dim():
            return torch.cat(each)
        if isinstance(held, np.ndarray) and held.ndim:
            return np.concatenate(each)
        return sum(each[1:], each[0]) if type(held) in (list, tuple) else held

    return rebuilt(batches[0], leaf, _listed(sizes[0]))


def _listed(samples: int) -> Callable[[Any], bool]:
    def listed(held: Any) -> bool:  # names of files, say: one for each sample
        return type(held) in (list, tuple) and len(held) == samples and not _leads(held)

    return listed


def _leads(held: Any) -> bool:
    found = opened(held)
    return bool(found.tensors or found.arrays)
